"""Files that a person has named, one by one, moved to another filesystem: compared there, and brought back by undo."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import (
    PATIENT_SECONDS,
    READ_STORE,
    absolute,
    on_mount,
    only,
    patient,
    remove_store,
    store_check,
    store_removed,
)
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import bytes_of, text_of, word, words
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo

MOST_FILES = 500
_BYTES_PER_SECOND = 30e6


def ways(seen: Seen, want_bytes: int, files: Sequence[str] = ()) -> Iterator[Way]:  # noqa: ARG001
    """Moving the named files; without any it is refused, and says how to name them."""
    store, room = seen.store
    sizes = [size or 0 for size in seen.survey.files]
    missing = [name for name, size in zip(files, seen.survey.files, strict=False) if size is None]
    refused = ""
    if not files:
        refused = "name them one by one (parameter files, or --file); a directory or a pattern is not taken"
    elif missing:
        refused = f"{missing[0]} is not a file on {seen.mountpoint}"
    elif room < sum(sizes):
        refused = f"no other filesystem of this host has room for them ({amount(max(room, 0))} at most)"
    yield Way(
        "move-files",
        f"Move {len(files)} named file{'' if len(files) == 1 else 's'} to {store or 'another filesystem'}",
        Safety.KEEPS,
        gain_bytes=sum(sizes) if files else None,
        measured="the files' own blocks",
        seconds=5 + sum(sizes) / _BYTES_PER_SECOND,
        undo="they are moved back; it takes as long, and needs the space back",
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint, "files": list(files), "store": store},
        refused=refused,
    )


# Reads `device inode size links mode mtime` of each; a name is taken literally, whatever is in it.
_LOOK = "for f do stat -c '%d %i %s %h %f %.9Y' -- \"$f\" || exit 3; done\n"


def _given(known: Known) -> str:
    return f"set -- {words(*known.parameters['files'])}\n" if known.parameters["files"] else "set --\n"


def _files(answer: bytes) -> list[dict[str, Any]]:
    """What each file is. Raises ValueError."""
    found = []
    for line in text_of(answer).splitlines():
        device, inode, size, links, mode, changed = line.split()
        kind = int(mode, 16) & 0xF000
        float(changed)
        found.append({"id": f"{int(device)} {int(inode)} {int(size)} {changed}", "size": int(size),
                      "links": int(links), "plain": kind == 0x8000})  # fmt: skip
    return found


_READ = Read("files", lambda known: _given(known) + _LOOK, _files, root=True, deadline_seconds=PATIENT_SECONDS)


def _place(known: Known, file: str) -> str:
    """Where a file goes: a name of its own in the store."""
    digest = hashlib.sha256(bytes_of(file)).hexdigest()[:10]
    return f"{known.parameters['store']}/{digest}-{posixpath.basename(file)}"


def _each(known: Known, function: str) -> str:
    pairs = zip(known.parameters["files"], known.before["files"], strict=True)
    return "".join(
        f"{function} {words(file, _place(known, file), facts['id'])} || exit 1\n" for file, facts in pairs
    )  # fmt: skip


def _count(known: Known) -> str:
    total = sum(facts["size"] for facts in known.before["files"])
    return f"{len(known.parameters['files'])} files, {total} bytes"


_IS = """is_it() { [ -f "$1" ] && [ ! -L "$1" ] && [ "$(stat -c '%d %i %s %.9Y' -- "$1")" = "$2" ]; }
"""
_COPY = """copy() {  # file place id
  is_it "$1" "$3" || { [ ! -e "$1" ] && [ -f "$2" ] && return 0; echo "$1 has changed" >&2; return 1; }
  if [ -f "$2" ]; then cmp -s -- "$1" "$2" && return 0; echo "$2 is there and is another file" >&2; return 1; fi
  rm -f -- "$2.part" && cp -a -- "$1" "$2.part" && cmp -s -- "$1" "$2.part" || { rm -f -- "$2.part"; return 1; }
  sync -- "$2.part" 2>/dev/null || sync
  mv -f -- "$2.part" "$2"
}
"""
_REMOVE = """remove() {  # file place id
  [ -e "$1" ] || { [ -f "$2" ] && return 0; echo "$1 and $2 are both gone" >&2; return 1; }
  is_it "$1" "$3" && cmp -s -- "$1" "$2" || { echo "$2 does not hold what $1 holds" >&2; return 1; }
  [ -z "$(held_open "$1")" ] && is_it "$1" "$3" || { echo "$1 is in use: it stays" >&2; return 1; }
  rm -f -- "$1"
}
"""
_BRING = """bring() {  # file place id
  part=${1%/*}/.runbook-part-${2##*/}
  rm -f -- "$part" || return 1
  [ ! -e "$1" ] || { cmp -s -- "$1" "$2" && return 0; echo "$1 is there and is another file" >&2; return 1; }
  cp -a -- "$2" "$part" && cmp -s -- "$2" "$part" || { rm -f -- "$part"; return 1; }
  sync -- "$part" 2>/dev/null || sync
  mv -f -- "$part" "$1"
}
"""


def _may(known: Known) -> str:
    for file, facts in zip(known.parameters["files"], known.before["files"], strict=True):
        if not facts["plain"]:
            return f"no {word(file)}' is not a plain file: name files, no directory, no link'\n"
        if facts["links"] != 1:
            return f"no {word(file)}' has a second name: moving it frees nothing'\n"
    return (
        on_mount(known)
        + _given(known)
        + """for f do
  [ "$(stat -c %d -- "$f")" = "$(stat -c %d -- "$m")" ] || no "$f lies on another filesystem than $m"
  where=$(database_above "$f") && no "$f lies in the database directory $where: nothing there is touched"
done
held=$(held_open "$@")
case $held in
'') ;;
[0-9]*) shift $((${held% *} - 1)); no "$1 is open in process ${held#* }" ;;
*) cannot_tell 'which files are open' ;;
esac
yes "$# plain files on $m, in no database's directory, open in no process"
"""
    )


def _copy(known: Known) -> list[Command]:
    store = word(known.parameters["store"])
    text = f"umask 077\n{_IS}{_COPY}mkdir -p -- {store} || exit 1\n{_each(known, 'copy')}"
    return [Command(text, f"{_count(known)}, in {known.parameters['store']}", root=True)]


def _all(known: Known, function: str, words_when_so: str) -> str:
    calls = _each(known, "each").replace(" || exit 1\n", "\n")
    return f"{_IS}each() {{ {function} }}\n{calls}yes {word(f'{_count(known)}: {words_when_so}')}\n"


def _copied(known: Known) -> str:
    look = '[ -f "$2" ] || no "$2 is not there"; '
    look += '[ ! -e "$1" ] || cmp -s -- "$1" "$2" || cannot_tell "$1 and $2 differ";'
    return _all(known, look, "each has its copy")


def _uncopy(known: Known) -> list[Command]:
    function = """uncopy() { rm -f -- "$2.part"; [ -e "$2" ] || return 0
  cmp -s -- "$1" "$2" || { echo "$1 is not what it was: $2 stays" >&2; return 1; }
  rm -f -- "$2"; }
"""
    text = function + _each(known, "uncopy") + remove_store(known)
    return [Command(text, f"the copies in {known.parameters['store']}", root=True)]


def _removed(known: Known) -> str:
    look = '[ -f "$2" ] || cannot_tell "$2 is not there"; [ ! -e "$1" ] || no "$1 is still there";'
    return _all(known, look, "each is only in its new place")


def _back(known: Known) -> str:
    look = '[ ! -e "${1%/*}/.runbook-part-${2##*/}" ] || no "a cut command has left a file beside $1"; '
    look += '[ -f "$1" ] || no "$1 is not there"; [ ! -e "$2" ] || cmp -s -- "$1" "$2" || cannot_tell "$1 has changed";'
    return _all(known, look, "each is in its old place")


_MAY = Check("they are plain files that nobody uses", _may, root=True, deadline_seconds=120)

COPY = Step(
    name="copy",
    title="Copy the named files to another filesystem",
    why="Nothing is removed before it is held, and compared, somewhere else.",
    reads=(_READ, READ_STORE),
    prechecks=(
        _MAY,
        patient(
            "there is room for them",
            lambda known: store_check(known, sum(facts["size"] for facts in known.before["files"])),
        ),
    ),
    commands=_copy,
    verify=Check("each file has its copy", _copied, root=True, deadline_seconds=900),
    undo=Undo(
        _uncopy,
        patient(
            "there are no copies",
            lambda known: (
                store_removed(known)
                + _all(known, '[ ! -e "$2" ] && [ ! -e "$2.part" ] || no "$2 is there";', "none has a copy")
            ),
        ),
        takes="seconds",
    ),
    deadline_seconds=3600,
)

REMOVE = Step(
    name="remove",
    title="Remove them from the full filesystem",
    why="Each is compared with its copy once more before it goes.",
    needs=("copy",),
    reads=(_READ,),
    prechecks=(_MAY, Check("each file has its copy", _copied, root=True, deadline_seconds=900)),
    commands=lambda known: [
        Command(
            f"{only('held_open')}{_IS}{_REMOVE}{_each(known, 'remove')}",
            f"{_count(known)}, on the full filesystem",
            root=True,
        )
    ],
    verify=patient("each is only in its new place", _removed),
    undo=Undo(
        lambda known: [Command(f"{_BRING}{_each(known, 'bring')}", f"{_count(known)}, brought back", root=True)],
        Check("each is in its old place", _back, root=True, deadline_seconds=900),
        takes="as long as the copying; it needs the space back",
    ),
    deadline_seconds=3600,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    files = parameters["files"]
    if not 1 <= len(files) <= MOST_FILES:
        return f"files must name 1 to {MOST_FILES} files, one by one"
    if len(set(files)) != len(files):
        return "files names one of them twice"
    for each in (*files, parameters["store"]):
        if not absolute(each):
            return f"{each!r} is not the absolute path of a file, without //, /./: no pattern, no directory"
    return filesystem.refuses(parameters)


RUNBOOK = Runbook(
    name="move-files",
    version="2",
    title="Move named files to another filesystem",
    purpose="Old artifacts, dumps or archives that a person can name take space that is needed at once.",
    not_when="Somebody still reads them there; they belong to a database; or nobody is sure what they are.",
    takes="About a minute per 2 GB.",
    undo_takes="About as long, and it needs the space back.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter("files", "list[str]", str, [], "the files, each an absolute path, taken literally", is_list=True),
        Parameter("store", "str", str, "", "a directory on another filesystem, an absolute path"),
    ),
    steps=(COPY, REMOVE),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]), str(parameters["store"])),
)
