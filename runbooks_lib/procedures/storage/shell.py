"""Shell text that several ways share. It only reads."""

from __future__ import annotations

import posixpath
import re
from importlib.resources import files

from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Known, Read, Text

LOOK = files(__package__).joinpath("look.sh").read_text(encoding="utf-8")
PATIENT_SECONDS = 120.0
# On one line, or up to a brace at a line's beginning: a line in the middle may end with one too.
_FUNCTION = re.compile(r"^([a-z_]+)\(\) \{(?:[^\n]* \}|.*?^\})$", re.MULTILINE | re.DOTALL)
_FUNCTIONS = {match[1]: match[0] for match in _FUNCTION.finditer(LOOK)}
TOOLS = "PATH=$PATH:/usr/sbin:/sbin LVM_SUPPRESS_FD_WARNINGS=1; export PATH LVM_SUPPRESS_FD_WARNINGS\n"


def patient(title: str, script: Text) -> Check:
    """A check as root that may take its time: the hosts that need space are those that crawl."""
    return Check(title, script, root=True, deadline_seconds=PATIENT_SECONDS)


def only(*names: str) -> str:
    """These functions of `look.sh` and no more: what changes a host is read by a person first."""
    return TOOLS + "".join(f"{_FUNCTIONS[name]}\n" for name in names)


def on_mount(known: Known) -> str:
    """`look.sh`, and `m`, `type` and `source` of the runbook's mount point. Ends with status 3 when nothing is mounted
    there: for a check that means "cannot tell"."""
    return LOOK + mount_words(known)


def mount_words(known: Known) -> str:
    """What `on_mount` sets, for who has `type_of` and `source_of` already."""
    return (
        f"m={word(known.parameters['mountpoint'])}\n"
        'type=$(type_of "$m") && source=$(source_of "$m") || { echo "nothing is mounted at $m" >&2; exit 3; }\n'
    )


def same_filesystem(path: str) -> str:
    """Shell text that says no unless `path` (a shell word) lies on the mount point's filesystem."""
    return (
        f"nearest {path}\n"
        '[ "$(stat -c %d -- "$near")" = "$(stat -c %d -- "$m")" ] || no "$near lies on another filesystem than $m"\n'
    )


def store_check(known: Known, need_bytes: int) -> str:
    """A check's text: the runbook's `store` lies on another filesystem, which has room for `need_bytes` and more."""
    return (
        on_mount(known)
        + f"store={word(known.parameters['store'])} need={need_bytes}\n"
        + """nearest "$store"
[ "$(stat -c %d -- "$near")" != "$(stat -c %d -- "$m")" ] || no "$store lies on the same filesystem as $m"
case $(stat -f -c %T -- "$near") in tmpfs | ramfs) no "$store lies in memory: a reboot would empty it";; esac
room=$(stat -f -c '%a %S' -- "$near") && room=$((${room% *} * ${room#* })) || cannot_tell "what room there is in $store"
[ $room -gt $((need + need / 8)) ] || no "$store has room for $room bytes, and $need are to go there"
yes "$store has room for $room bytes, and at most $need go there"
"""
    )


def _store(answer: bytes) -> str:
    """Whether the store was there before. Raises ValueError."""
    (said,) = text_of(answer).split()
    if said not in ("there", "new"):
        raise ValueError("it is neither there nor new")
    return said


READ_STORE = Read(
    "store",
    lambda known: f"if [ -e {word(known.parameters['store'])} ]; then echo there; else echo new; fi\n",
    _store,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def remove_store(known: Known) -> str:
    """Of a command: removes the `store` that READ_STORE has seen was not there, unless others have put something in."""
    if known.before["store"] != "new":
        return ""
    return f"rmdir -- {word(known.parameters['store'])} 2>/dev/null || :\n"


def store_removed(known: Known) -> str:
    """Of a check: says no when the command was cut before it had removed the `store`."""
    if known.before["store"] != "new":
        return ""
    store = word(known.parameters["store"])
    return f'[ ! -d {store} ] || [ -n "$(ls -A -- {store})" ] || no {store}" is left, with nothing in it"\n'


def absolute(path: object) -> bool:
    """Whether a parameter is an absolute path as the kernel writes it: `/var/`, `//var` and `/var/./log` would get past
    what is refused by name, and a shell's `$(…)` drops a line end at the end."""
    text = str(path)
    plain = posixpath.normpath(text) == text and not text.startswith("//") and not text.endswith("\n")
    return text.startswith("/") and plain and "\0" not in text
