"""A log that is still written, emptied from its beginning: its lines are copied away, compared, and their blocks given
back (fallocate(1), --punch-hole).

The file keeps its name, inode and length, whoever writes goes on writing at its end, and no line is lost: a copy and a
truncation would lose those that come between. A reader finds zeros where the old lines were.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Log, Seen
from runbooks_lib.procedures.storage.shell import (
    PATIENT_SECONDS,
    READ_STORE,
    absolute,
    on_mount,
    patient,
    remove_store,
    same_filesystem,
    store_check,
    store_removed,
)
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo

MIB = 1024**2
_PUNCHING = ("ext4", "xfs")  # a btrfs keeps an extent (up to 128 MiB) as long as one block of it is wanted
_BYTES_PER_SECOND = 20e6  # gzip -6 on one slow core, and reading it again


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - a log is as large as it is
    """The large logs, each by itself."""
    store, room = seen.store
    for log in seen.survey.logs:
        length = log.size_bytes // MIB * MIB
        gain = min(length, log.allocated_bytes) // MIB * MIB
        if gain < 4 * MIB:
            continue
        yield Way(
            f"archive-log:{log.path}",
            f"Copy the first {amount(length)} of {log.path}, compressed, to {store or 'another filesystem'}, and give "
            "their blocks back",
            Safety.KEEPS,
            gain_bytes=gain,
            measured="the file's own blocks",
            seconds=5 + length / _BYTES_PER_SECOND,
            undo="the lines are written back from the copy; it takes as long, and needs the space back",
            runbook=RUNBOOK.name,
            parameters={"mountpoint": seen.mountpoint, "file": log.path, "length": length, "store": store},
            refused=_refused(seen, log, length, room),
        )


def _refused(seen: Seen, log: Log, length: int, room: int) -> str:
    if not is_utf8(log.path):
        return "its name is not UTF-8, and cannot be a parameter"
    if log.of_database:
        return "it lies in a database's directory: rotate it with the database's own means"
    if seen.filesystem.fstype not in _PUNCHING:
        return f"a {seen.filesystem.fstype} does not give a part of a file back"
    if not seen.survey.tools >= {"fallocate", "gzip"}:
        return "fallocate and gzip are not both installed on the host"
    if room < length:
        return f"no other filesystem of this host has room for it ({amount(max(room, 0))} at most)"
    return ""


def is_utf8(path: str) -> bool:
    """Whether a name can be a parameter: those are text."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _place(known: Known) -> str:
    """Sets `f`, `n`, `store` and `a`: log, length, where the copy goes. `same`: the copy holds what the log holds;
    `blank`: the log's beginning is zeros; `whole`: the copy has its length; `is_it`: the log is the same file."""
    file, length = str(known.parameters["file"]), int(known.parameters["length"])
    store = str(known.parameters["store"])
    copy = f"{store}/{posixpath.basename(file)}.{known.before['log']['inode']}.{length}.gz"
    return (
        f"f={word(file)} n={length} store={word(store)} a={word(copy)}\n"
        + """same() { gzip -dc <"$1" | { exec 3<&0; head -c "$n" -- "$f" | cmp -s - /dev/fd/3; }; }
blank() { [ "$(head -c "$n" -- "$f" | tr -d '\\000' | head -c 1 | wc -c)" -eq 0 ]; }
whole() { [ -s "$a" ] && [ "$(gzip -dc <"$a" 2>/dev/null | wc -c)" -eq "$n" ]; }
"""
        + 'is_it() { [ -f "$f" ] && [ ! -L "$f" ] && [ "$(stat -c "%d %i" -- "$f")" = '
        + f"{word(known.before['log']['id'])} ]; }}\n"
    )


def _log(answer: bytes) -> dict[str, str]:
    """What the file is: device and inode. Raises ValueError."""
    device, inode = text_of(answer).split()
    return {"id": f"{int(device)} {int(inode)}", "inode": inode}


_READ = Read(
    "log",
    lambda known: f"stat -c '%d %i' -- {word(known.parameters['file'])}\n",
    _log,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def _is_log(known: Known) -> str:
    return (
        on_mount(known)
        + _place(known)
        + same_filesystem('"$f"')
        + """is_it || no "$f is not a plain file, or is another one by now"
[ "$(stat -c %h -- "$f")" = 1 ] || no "$f has a second name"
[ "$(stat -c %s -- "$f")" -ge "$n" ] || no "$f is shorter than $n bytes"
where=$(database_above "$f") && no "$f lies in the database directory $where: nothing there is touched"
case ${f##*/} in *.log | *.log[-.]* | *.out | *.err) ;; *) no "its name is not that of a log";; esac
case $type in ext4 | xfs) ;; *) no "a $type does not give a part of a file back";; esac
[ "$(head -c "$n" -- "$f" | tr -dc '\\000' | head -c 1 | wc -c)" -eq 0 ] || no "it holds zeros: it is no text"
yes "a text of $(stat -c %s -- "$f") bytes, in no database's directory"
"""
    )


def _copy(known: Known) -> list[Command]:
    text = (
        _place(known)
        + """is_it || { echo "$f is another file by now" >&2; exit 1; }
if whole; then exit 0; fi
[ "$(head -c "$n" -- "$f" | tr -dc '\\000' | head -c 1 | wc -c)" -eq 0 ] || {
  echo "the lines are not in $f any more, and $a does not hold them" >&2; exit 1; }
umask 077
mkdir -p -- "$store" && head -c "$n" -- "$f" | gzip -n -c >"$a.part" && same "$a.part" || {
  rm -f -- "$a.part"; echo "the copy is not what the log holds" >&2; exit 1; }
sync -- "$a.part" 2>/dev/null || sync
mv -f -- "$a.part" "$a" && { sync -- "$store" 2>/dev/null || sync; }
"""
    )
    return [Command(text, f"a new file in {known.parameters['store']}", root=True)]


def _copied(known: Known) -> str:
    return (
        _place(known)
        + """is_it || cannot_tell "$f is another file by now"
[ -e "$a" ] || no "$a is not there"
whole || cannot_tell "$a does not hold $n bytes"
same "$a" || blank || cannot_tell "$a and $f differ"
yes "$a holds the first $n bytes"
"""
    )


def _uncopy(known: Known) -> list[Command]:
    # The copy goes only while the log still holds the same.
    text = (
        _place(known)
        + """rm -f -- "$a.part"
[ ! -e "$a" ] || { same "$a" || { echo "$f does not hold the lines: the copy stays" >&2; exit 1; }; rm -f -- "$a"; }
"""
        + remove_store(known)
    )
    return [Command(text, f"the copy in {known.parameters['store']}", root=True)]


def _uncopied(known: Known) -> str:
    return (
        _place(known)
        + '[ ! -e "$a" ] && [ ! -e "$a.part" ] || no "$a is there"\n'
        + store_removed(known)
        + 'yes "there is no copy"\n'
    )


def _give_back(known: Known) -> list[Command]:
    text = (
        _place(known)
        + """is_it || { echo "$f is another file by now" >&2; exit 1; }
if ! same "$a"; then blank && whole && exit 0; echo "$a does not hold what $f holds" >&2; exit 1; fi
fallocate --punch-hole --offset 0 --length "$n" -- "$f" && { sync -f -- "$f" 2>/dev/null || sync; }
"""
    )
    return [Command(text, str(known.parameters["file"]), root=True)]


def _given_back(known: Known) -> str:
    return (
        _place(known)
        + f"""is_it || cannot_tell "$f is another file by now"
whole || no "there is no whole copy"
blank || no "$f still holds its first $n bytes"
used=$(($(stat -c %b -- "$f") * 512)) size=$(stat -c %s -- "$f")
[ $used -le $((size - n + {MIB})) ] || no "$f is blank at its beginning and still takes $used bytes"
yes "$f takes $used bytes, and $a holds the first $n of its $size"
"""
    )


def _write_back(known: Known) -> list[Command]:
    # A log keeps its inode when it is emptied (logrotate's copytruncate): what was written since must stay. An undo
    # that was cut leaves the first lines, and zeros behind them.
    text = (
        _place(known)
        + """is_it && whole || { echo "$f or $a is not what it was" >&2; exit 1; }
first() { gzip -dc <"$a" | { exec 3<&0; head -c "$n" -- "$f" | cmp -l - /dev/fd/3 2>/dev/null; } |
  { read -r at rest && echo "$at"; }; }
free() { [ "$(stat -c %s -- "$f")" -ge "$n" ] || return 1; at=$(first) || return 0
  [ "$(head -c "$n" -- "$f" | tail -c "+$at" | tr -d '\\000' | head -c 1 | wc -c)" -eq 0 ]; }
free || { echo "the log has been emptied or rewritten since: the lines stay in $a" >&2; exit 1; }
same "$a" || gzip -dc <"$a" | dd of="$f" bs=1M conv=notrunc,fsync iflag=fullblock 2>/dev/null
same "$a"
"""
    )
    return [Command(text, str(known.parameters["file"]), root=True)]


def _written_back(known: Known) -> str:
    return (
        _place(known)
        + """is_it || cannot_tell "$f is another file by now"
[ -e "$a" ] || cannot_tell "$a is gone"
same "$a" && yes "$f holds its lines again"
no "$f does not hold its lines"
"""
    )


COPY = Step(
    name="copy",
    title="Copy the log's old lines to another filesystem, compressed",
    why="No line may be lost; and compressing beside the log would need space on the full disk.",
    reads=(_READ, READ_STORE),
    prechecks=(
        Check("it is a log and belongs to no database", _is_log, root=True, deadline_seconds=600),
        Check(
            "there is room for the copy", lambda known: store_check(known, int(known.parameters["length"])), root=True
        ),
    ),
    commands=_copy,
    verify=Check("the copy holds the lines", _copied, root=True, deadline_seconds=900),
    undo=Undo(_uncopy, patient("there is no copy", _uncopied), takes="seconds"),
    deadline_seconds=3600,
)

GIVE_BACK = Step(
    name="give-back",
    title="Give the blocks of the copied lines back",
    why="It frees the space at once, without a restart, and needs none itself.",
    needs=("copy",),
    reads=(_READ,),
    prechecks=(Check("the copy holds the lines", _copied, root=True, deadline_seconds=900),),
    commands=_give_back,
    verify=Check("the blocks are given back", _given_back, root=True, deadline_seconds=900),
    undo=Undo(
        _write_back,
        Check("the log holds its lines", _written_back, root=True, deadline_seconds=900),
        takes="as long as the copying; it needs the space back",
    ),
    deadline_seconds=900,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    for name in ("file", "store"):
        if not absolute(parameters[name]):
            return f"{name} must be an absolute path, without //, /./, /../ or a / at its end"
    if int(parameters["length"]) < 1:
        return "length must be at least 1"
    return filesystem.refuses(parameters)


RUNBOOK = Runbook(
    name="archive-log",
    version="2",
    title="Copy a log's old lines away and give their blocks back, while it is written",
    purpose="A log that is still written fills a partition.",
    not_when="The file is no log that only grows at its end; somebody reads it by offset; or it lies in a database's "
    "directory.",
    takes="About a minute a gigabyte.",
    undo_takes="About as long, and it needs the space back.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter("file", "str", str, "", "the log, an absolute path"),
        Parameter("length", "int", int, 0, "how many bytes from its beginning, at least 1", lowest=0),
        Parameter("store", "str", str, "", "a directory on another filesystem, an absolute path"),
    ),
    steps=(COPY, GIVE_BACK),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]), str(parameters["store"])),
)
