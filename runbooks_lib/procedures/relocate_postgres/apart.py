"""What a server keeps outside of its data directory and uses by a symlink: tablespaces, and WAL on a partition of its
own (the manual, "Tablespaces"; initdb, `--waldir`).

A copy may not share such a directory with the old server: both would write the same files in it (below a tablespace's
place the subdirectory is called after the version alone). So each gets a new place, by `pg_basebackup
--tablespace-mapping` and `--waldir`; what lay at the old one stays, and the old data's symlinks still lead there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runbooks_lib.runbook.quoting import words

INSIDE = "inside"  # the value of the parameter `wal` that takes the WAL into the data directory
WAL_LINK = "pg_wal"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+\Z")
_MAPPING = re.compile(r"([^=]+)=(/.*)\Z")


@dataclass(frozen=True)
class Apart:
    """A directory outside of the data. `link` is its symlink in the data directory, `lies` where it is now (for WAL
    that is inside yet: the directory itself), `goes` where the copy has it."""

    name: str
    link: str
    lies: str
    goes: str


def parse_mappings(given: Sequence[str]) -> dict[str, str]:
    """`NAME=/directory` each. Raises ValueError."""
    found: dict[str, str] = {}
    for each in given:
        match = _MAPPING.match(each)
        if not match:
            raise ValueError(f"{each!r} is not of the form NAME=/new/directory")
        if match[1] in found:
            raise ValueError(f"{match[1]} is named twice")
        found[match[1]] = match[2]
    return found


def apart_of(facts: Mapping[str, Any], target: str, short: str, mappings: Mapping[str, str], wal: str) -> list[Apart]:
    """Each directory that lies apart, and where it goes: a tablespace beside the target unless it is mapped, WAL beside
    its old directory unless `wal` says otherwise. Of a database that lies at the target already, where they are."""
    moved = facts["real"] == target
    found = []
    for each in facts.get("tablespaces", ()):
        name, lies = str(each["name"]), str(each["location"])
        own = name if _PLAIN.match(name) else str(each["oid"])
        goes = lies if moved else mappings.get(name, f"{target}.tablespace-{own}")
        found.append(Apart(f"the tablespace {name}", f"pg_tblspc/{each['oid']}", lies, goes))
    lies = str(facts.get("wal", ""))
    goes = wal or (_beside(lies, short) if lies else INSIDE)
    if moved:
        goes = lies or INSIDE
    if goes != INSIDE:
        found.append(Apart("the WAL", WAL_LINK, lies or f"{facts['real']}/{WAL_LINK}", goes))
    return found


def _beside(wal: str, short: str) -> str:
    """A name in the same directory that is this move's own; moved again, it does not grow."""
    return f"{re.sub(r'-[0-9a-f]{10}$', '', wal)}-{short}"


def left_behind(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The links and places of what stays outside of the old data when the database has gone."""
    found = [(f"pg_tblspc/{each['oid']}", str(each["location"])) for each in facts.get("tablespaces", ())]
    return found + ([(WAL_LINK, str(facts["wal"]))] if facts.get("wal") else [])


def shell(apart: Sequence[Apart], left: Sequence[tuple[str, str]]) -> str:
    """The functions `apart COMMAND…`, which calls it with the link, the old and the new place, and the name of each,
    and `left COMMAND…`, with the link and the place of what stays outside of the old data."""
    calls = "".join(f' && "$@" {words(each.link, each.lies, each.goes, each.name)}' for each in apart)
    stay = "".join(f' && "$@" {words(*each)}' for each in left)
    return f"apart() {{ :{calls}; }}\nleft() {{ :{stay}; }}\n"


def mapping_words(apart: Sequence[Apart]) -> list[str]:
    """The words for `pg_basebackup`; an = in a path wants a backslash."""
    found = []
    for each in apart:
        if each.link == WAL_LINK:
            found.append(f"--waldir={each.goes}")
        else:
            lies, goes = (path.replace("=", "\\=") for path in (each.lies, each.goes))
            found.append(f"--tablespace-mapping={lies}={goes}")
    return found


def refuses(directory: str, target: str, tablespaces: Sequence[str], wal: str, path: re.Pattern[str]) -> str:
    """Why these parameters make no sense; empty when they do."""
    try:
        places = [*parse_mappings(tablespaces).values()]
    except ValueError as error:
        return f"tablespaces: {error}"
    if wal and wal != INSIDE:
        if not wal.startswith("/"):
            return f"wal must be empty, the word {INSIDE}, or an absolute path"
        places.append(wal)
    for place in places:
        if not path.match(place) or "//" in place or {".", ".."} & set(place.split("/")):
            return f"{place} must be an absolute path, without quotes, $, %, a backslash, . or .."
        for other in (directory, target):
            if posixpath.commonpath([place, other]) in (place, other):
                return f"{place} must lie apart from {other}"
    if len(set(places)) != len(places):
        return "two of the new places are the same"
    return ""
