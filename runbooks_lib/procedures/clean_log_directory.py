"""Rotate and compress a log directory that fills a partition.

Two steps, both taken back byte for byte. No root is needed if the directory is yours.

* `rotate` renames each quiet log (`app.log` to `app.log-20261120T0612`, its last change in UTC) and puts an empty file
  of the same mode in its place, so that there is a log at every moment (logrotate's `create` and `dateext`).
* `compress` makes a `.gz` of each rotated file, beside it, compares it with the file byte by byte, and only then
  removes the file: smallest first, so that a disk with hardly any room makes its own.

A log that was written to within `quiet_minutes`, or that a process (of those that may be looked at) has open for
writing, is left alone: what a process writes into a removed file is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.runbook.quoting import text_of, word, words
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo

MOST_FILES = 2000
_Log = Mapping[str, Any]

# One line a file: size, last change, mode, links, owner, group, the name in hexadecimal (a name may hold a line end).
_LIST = """cd -- {directory} || exit 3
find . ! -name . -prune -type f {names} -mmin +{quiet} -exec sh -c '
for f do f=${{f#./}}
  [ -s "$f" ] || continue
  said=$(stat -c "%s %Y %a %h %u %g" -- "$f") || exit 4
  printf "%s %s\\n" "$said" "$(printf %s "$f" | od -An -v -tx1 | tr -d " \\n")"
done' sh {{}} +
"""


def _directory(known: Known) -> str:
    return word(known.parameters["directory"])


def _list_logs(known: Known) -> str:
    return _list(known, f"-name {word(known.parameters['pattern'])}")


def _list_rotated(known: Known) -> str:
    """`app.log.1`, `app.log-20261120T0612`; what is compressed ends in no digit."""
    return _list(known, f"-name {word(known.parameters['pattern'] + '[-.][0-9]*')} -name '*[0-9]'")


def _list(known: Known, names: str) -> str:
    return _LIST.format(directory=_directory(known), names=names, quiet=int(known.parameters["quiet_minutes"]))


def _logs(answer: bytes) -> list[dict[str, Any]]:
    """The files of one listing, by name. Raises ValueError."""
    found = []
    for line in answer.decode("ascii").splitlines():
        size, changed, mode, links, owner, group, name = line.split(" ")
        found.append(
            {
                "name": text_of(bytes.fromhex(name)),
                "size": int(size),
                "changed": int(changed),
                "mode": f"{int(mode, 8):04o}",
                "links": int(links),
                "owner": f"{int(owner)}:{int(group)}",
            }
        )
    if len(found) > MOST_FILES:
        raise ValueError(f"{len(found)} files; give a pattern that matches at most {MOST_FILES}")
    return sorted(found, key=lambda log: str(log["name"]))


def _rotated_name(log: _Log) -> str:
    return f"{log['name']}-{datetime.fromtimestamp(log['changed'], UTC):%Y%m%dT%H%M}"


def _calls(function: str, logs: Sequence[_Log], *keys: str) -> str:
    return "".join(f"{function} {words(*(log[key] for key in keys))} || exit 1\n" for log in logs)


# -- rotate ------------------------------------------------------------------------------------------------------------

_HERE = """cd -- {directory} || exit 3
is() {{ [ -f "$1" ] && [ ! -L "$1" ] && [ "$(stat -c '%s %Y' -- "$1")" = "$2 $3" ]; }}
"""
# `ln` before the new file's `mv`: under either name there is a file at every moment, and a cut anywhere can go on.
_ROTATE = """rotate() {  # log rotated size changed mode owner
  if [ -e "$2" ] && [ ! "$1" -ef "$2" ]; then is "$2" "$3" "$4" && return 0
    echo "$2 is there and is another file" >&2; return 1; fi
  is "$1" "$3" "$4" || { echo "$1 has changed since it was looked at" >&2; return 1; }
  [ -e "$2" ] || ln -- "$1" "$2" || return 1
  rm -f -- ".$1.runbook-new" && (umask 077; : >".$1.runbook-new") && chmod "$5" ".$1.runbook-new" || return 1
  [ "$(id -u)" != 0 ] || chown "$6" ".$1.runbook-new" || return 1
  mv -f -- ".$1.runbook-new" "$1"
}
"""
_ROTATE_BACK = """back() {  # log rotated size changed
  rm -f -- ".$1.runbook-new" || return 1
  [ -e "$2" ] || { is "$1" "$3" "$4" && return 0; echo "neither $1 nor $2 is what it was" >&2; return 1; }
  is "$2" "$3" "$4" || { echo "$2 has changed" >&2; return 1; }
  if [ "$1" -ef "$2" ]; then rm -f -- "$2"
  elif [ -s "$1" ]; then echo "$1 has new lines; join it with $2 by hand, then undo again" >&2; return 1
  else mv -f -- "$2" "$1"; fi
}
"""
_ROTATED = """n=0
rotated() {  # log rotated size changed
  [ ! "$1" -ef "$2" ] || no "$1 is not rotated yet"
  is "$2" "$3" "$4" || is_archive "$2" || no "$2 is not there"
  [ -f "$1" ] || no "$1 is not there"
  n=$((n+1))
}
is_archive() { [ ! -e "$1" ] && [ -s "$1.gz" ]; }
"""
_NOT_ROTATED = """n=0
unrotated() {  # log rotated size changed
  [ ! -e "$2" ] && [ ! -e ".$1.runbook-new" ] || no "$2 is there"
  is "$1" "$3" "$4" || cannot_tell "$1 is not what it was, and $2 is not there"
  n=$((n+1))
}
"""


def _to_rotate(known: Known) -> list[dict[str, Any]]:
    return [{**log, "rotated": _rotated_name(log)} for log in known.before.get("logs", [])]


def _rotate(known: Known) -> list[Command]:
    logs = _to_rotate(known)
    text = _HERE.format(directory=_directory(known)) + _ROTATE
    text += _calls("rotate", logs, "name", "rotated", "size", "changed", "mode", "owner")
    return [Command(text, f"{len(logs)} logs in {known.parameters['directory']}")] if logs else []


def _rotate_back(known: Known) -> list[Command]:
    logs = _to_rotate(known)
    text = _HERE.format(directory=_directory(known)) + _ROTATE_BACK
    text += _calls("back", logs, "name", "rotated", "size", "changed")
    return [Command(text, f"{len(logs)} logs in {known.parameters['directory']}")] if logs else []


def _rotated(known: Known) -> str:
    text = _HERE.format(directory=_directory(known)) + _ROTATED
    text += _calls("rotated", _to_rotate(known), "name", "rotated", "size", "changed")
    return text + '[ $n -gt 0 ] || no "no log is quiet, and none was rotated"\nyes "$n logs are rotated"\n'


def _not_rotated(known: Known) -> str:
    text = _HERE.format(directory=_directory(known)) + _NOT_ROTATED
    text += _calls("unrotated", _to_rotate(known), "name", "rotated", "size", "changed")
    return text + '[ $n -gt 0 ] || yes "nothing had been rotated"\nyes "$n logs are as they were"\n'


# -- compress ----------------------------------------------------------------------------------------------------------

_COMPRESS = """compress() {  # name size changed mode owner
  part=".$1.runbook-part"
  if [ ! -e "$1" ]; then [ -s "$1.gz" ] && return 0; echo "$1 is gone, and so is $1.gz" >&2; return 1; fi
  is "$1" "$2" "$3" || { echo "$1 has changed since it was looked at" >&2; return 1; }
  if [ ! -e "$1.gz" ]; then
    rm -f -- "$part" && (umask 077; gzip -n -c <"$1" >"$part") || { rm -f -- "$part"; return 1; }
    chmod "$4" "$part" && touch -r "$1" -- "$part" || return 1
    [ "$(id -u)" != 0 ] || chown "$5" "$part" || return 1
    sync -- "$part" 2>/dev/null || sync
    mv -f -- "$part" "$1.gz" || return 1
  fi
  gzip -d -c <"$1.gz" | cmp -s - "$1" || { echo "$1.gz does not hold what $1 holds" >&2; return 1; }
  is "$1" "$2" "$3" || { echo "$1 was written to meanwhile" >&2; return 1; }
  rm -f -- "$1"
}
"""
_DECOMPRESS = """decompress() {  # name size changed mode owner
  part=".$1.runbook-part"
  rm -f -- "$part" || return 1
  if [ ! -e "$1" ]; then
    [ -s "$1.gz" ] || { echo "$1 is gone, and so is $1.gz" >&2; return 1; }
    (umask 077; gzip -d -c <"$1.gz" >"$part") || { rm -f -- "$part"; return 1; }
    chmod "$4" "$part" && touch -r "$1.gz" -- "$part" || return 1
    [ "$(id -u)" != 0 ] || chown "$5" "$part" || return 1
    is "$part" "$2" "$3" || { echo "$1.gz does not hold $2 bytes" >&2; return 1; }
    sync -- "$part" 2>/dev/null || sync
    mv -f -- "$part" "$1" || return 1
  fi
  is "$1" "$2" "$3" || { echo "$1 is not what it was" >&2; return 1; }
  rm -f -- "$1.gz"
}
"""
_COMPRESSED = """n=0
compressed() {  # name size
  [ ! -e "$1" ] || no "$1 is not compressed yet"
  [ -f "$1.gz" ] && [ ! -L "$1.gz" ] || cannot_tell "$1 and $1.gz are both gone"
  size=$(gzip -d -c <"$1.gz" 2>/dev/null | wc -c)
  [ "$((size))" = "$2" ] || cannot_tell "$1.gz holds $((size)) bytes, and $1 held $2"
  n=$((n+1))
}
"""
_PLAIN = """n=0
plain() {  # name size changed
  [ ! -e "$1.gz" ] && [ ! -e ".$1.runbook-part" ] || no "$1.gz is there"
  is "$1" "$2" "$3" || cannot_tell "$1 is not what it was, and there is no $1.gz"
  n=$((n+1))
}
"""


def _to_compress(known: Known) -> list[dict[str, Any]]:
    """The rotated logs and those that something else had rotated before, smallest first."""
    logs = {log["name"]: log for log in known.before.get("rotated", [])}
    for log in known.outputs.get("rotate", {}).get("rotated", []):
        logs[log["name"]] = log
    return sorted(logs.values(), key=lambda log: (log["size"], log["name"]))


def _compress(known: Known) -> list[Command]:
    logs = _to_compress(known)
    text = _HERE.format(directory=_directory(known)) + _COMPRESS
    text += _calls("compress", logs, "name", "size", "changed", "mode", "owner")
    total = sum(log["size"] for log in logs)
    return [Command(text, f"{len(logs)} rotated logs, {total} bytes")] if logs else []


def _decompress(known: Known) -> list[Command]:
    logs = list(reversed(_to_compress(known)))
    text = _HERE.format(directory=_directory(known)) + _DECOMPRESS
    text += _calls("decompress", logs, "name", "size", "changed", "mode", "owner")
    return [Command(text, f"{len(logs)} archives")] if logs else []


def _compressed(known: Known) -> str:
    text = _HERE.format(directory=_directory(known)) + _COMPRESSED
    text += _calls("compressed", _to_compress(known), "name", "size")
    return text + '[ $n -gt 0 ] || no "there is no rotated log"\nyes "$n logs are compressed"\n'


def _decompressed(known: Known) -> str:
    text = _HERE.format(directory=_directory(known)) + _PLAIN
    text += _calls("plain", _to_compress(known), "name", "size", "changed")
    return text + 'yes "$n logs are plain files again"\n'


# -- before anything ---------------------------------------------------------------------------------------------------


def _may_write(known: Known) -> str:
    directory = _directory(known)
    return (
        f"[ -d {directory} ] || no {directory}' is not a directory'\n"
        f'[ -w {directory} ] && [ -x {directory} ] && yes "$(id -un) may write there"\n'
        'no "$(id -un) may not write there"\n'
    )


def _one_link(known: Known) -> str:
    linked = [log["name"] for log in known.before["logs"] if log["links"] != 1]
    if linked:
        return f"no {word(linked[0])}' has a second name; which of them is the log cannot be told'\n"
    return f"yes '{len(known.before['logs'])} logs, each with one name'\n"


def _not_open(known: Known) -> str:
    """Whether a process writes to one of them. /proc/PID/fdinfo says how a file was opened (proc(5): flags, octal, the
    last digit 1 or 2)."""
    text = f"cd -- {_directory(known)} || cannot_tell 'the directory cannot be entered'\nset --"
    text += "".join(f" {word(log['name'])}" for log in known.before["logs"])
    return (
        text
        + """
[ $# -gt 0 ] || no 'no log matched'
seen=0 hidden=0
for process in /proc/[0-9]*; do
  if [ ! -r "$process/fd" ]; then hidden=$((hidden+1)); continue; fi
  seen=$((seen+1))
  case $(readlink "$process"/fd/* 2>/dev/null) in *"$(pwd -P)/"*) ;; *) continue;; esac
  for fd in "$process"/fd/*; do
    for log do
      if [ "$fd" -ef "$log" ]; then
        flags=; while read -r key value; do [ "$key" != flags: ] || flags=$value; done <"$process/fdinfo/${fd##*/}"
        case $flags in *[12]) no "$log is open for writing in process ${process##*/}";; esac
      fi
    done
  done
done 2>/dev/null
[ $seen -gt 0 ] || cannot_tell 'no process could be looked at'
yes "none is open in the $seen processes that $(id -un) may look at; $hidden others are hidden"
"""
    )


def _no_archive(known: Known) -> str:
    """No archive may be in the way: it would be another's."""
    logs = _to_compress(known)
    text = f"cd -- {_directory(known)} || cannot_tell 'the directory cannot be entered'\n"
    text += "".join(f"[ ! -e {word(log['name'] + '.gz')} ] || no {word(log['name'])}.gz' is there'\n" for log in logs)
    return text + f"yes '{len(logs)} names are free'\n"


ROTATE = Step(
    name="rotate",
    title="Give each quiet log a dated name and put an empty one in its place",
    why="A log that nobody writes to any more can be compressed without losing a line.",
    reads=(Read("logs", _list_logs, _logs),),
    prechecks=(
        Check("the directory may be written to", _may_write),
        Check("each log has one name", _one_link),
        Check("no process has one of them open for writing", _not_open),
    ),
    commands=_rotate,
    outputs=lambda known: {
        "rotated": [{**{k: log[k] for k in log if k != "rotated"}, "name": log["rotated"]} for log in _to_rotate(known)]
    },
    verify=Check("every log is rotated", _rotated),
    undo=Undo(_rotate_back, Check("every log is under its old name", _not_rotated), takes="seconds"),
    deadline_seconds=60,
)

COMPRESS = Step(
    name="compress",
    title="Compress the rotated logs",
    why="It frees most of their space at once, and nothing is lost.",
    needs=("rotate",),
    reads=(Read("rotated", _list_rotated, _logs),),
    prechecks=(Check("no archive is in the way", _no_archive),),
    commands=_compress,
    verify=Check("every rotated log is compressed", _compressed),
    undo=Undo(
        _decompress,
        Check("every rotated log is a plain file", _decompressed),
        takes="as long as the compressing; it needs the space back",
    ),
    deadline_seconds=3600,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    if not str(parameters["directory"]).startswith("/"):
        return "directory must be an absolute path"
    if "/" in str(parameters["pattern"]) or not parameters["pattern"]:
        return "pattern must be the pattern of a name, without a slash"
    return ""


RUNBOOK = Runbook(
    name="clean-log-directory",
    version="1",
    title="Clean a log directory",
    purpose="A partition fills up and a directory of logs on it is yours to rotate and compress.",
    not_when="The logs are written by a process that you may not look at and that never reopens them; the directory "
    "belongs to logrotate or to a database (its write-ahead log is no log); or less than a minute is left: then "
    "relieve the disk first.",
    takes="Seconds to rotate; about a minute per 2 GB to compress.",
    undo_takes="About as long, and it needs the space back.",
    parameters=(
        Parameter("directory", "str", str, "", "the directory of logs, an absolute path"),
        Parameter("pattern", "str", str, "*.log", "which files are logs, as a shell pattern"),
        Parameter(
            "quiet_minutes", "int", int, 60, "only logs not written to for so long, 0 to 100000 minutes", lowest=0,
            highest=100000,
        ),
    ),
    steps=(ROTATE, COMPRESS),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["directory"]),),
    notebook="incident/clean-log-directory.ipynb",
)  # fmt: skip
