"""ext4's blocks for root, lowered on a pure data volume (tune2fs(8), -r): at once, and without moving anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import PATIENT_SECONDS, TOOLS, on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo

KEEP_PERCENT = 1
# Where a system itself lives: there root must be able to log in and write when users have filled everything.
_SYSTEM = ("/", "/boot", "/etc", "/home", "/opt", "/root", "/run", "/tmp", "/usr", "/var")  # noqa: S108
_SYSTEM_BELOW = ("/boot/", "/usr/", "/var/log", "/var/tmp")  # noqa: S108


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - a reserve is what it is
    """The reserve of an ext filesystem, when it is larger than what is kept."""
    reserve, size = seen.survey.reserve_bytes, seen.survey.filesystem_bytes
    if reserve is None or size is None:
        return
    keep = size * KEEP_PERCENT // 100
    gain = max(0, seen.usage.free_bytes - keep - seen.set_aside_bytes) - max(seen.usage.avail_bytes, 0)
    if reserve <= keep or gain <= 0:
        return
    yield Way(
        "lower-reserve",
        f"Lower root's reserve from {reserve / size * 100:.1f} % to {KEEP_PERCENT} %",
        Safety.KEEPS,
        gain_bytes=gain,
        measured="the reserved blocks in the superblock, and the free ones",
        seconds=2,
        undo="the old reserve is set again, in a second",
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint, "keep_percent": KEEP_PERCENT},
        refused=_system(seen.mountpoint) or filesystem.grower(seen)
        or ("" if "tune2fs" in seen.survey.tools else "tune2fs is not installed on the host"),
    )  # fmt: skip


def _system(mountpoint: str) -> str:
    if mountpoint in _SYSTEM or mountpoint.startswith(_SYSTEM_BELOW):
        return "the system itself lives there, and root needs its reserve to mend it"
    return ""


def _blocks(answer: bytes) -> dict[str, Any]:
    """Reserved and all blocks, and the device. Raises ValueError."""
    reserved, blocks, source = text_of(answer).split()
    return {"reserved": int(reserved), "blocks": int(blocks), "source": source}


_COUNT = """said=$(dumpe2fs -h "$source" 2>/dev/null | awk -F': *' '
  /^Reserved block count:/ { r = $2 } /^Block count:/ { b = $2 } END { if (r == "" || b == "") exit 1; print r, b }')"""


def _keep(known: Known) -> int:
    return int(known.before["blocks"]["blocks"]) * int(known.parameters["keep_percent"]) // 100


def _set(known: Known, blocks: int) -> list[Command]:
    text = f"{TOOLS}tune2fs -r {blocks} {word(known.before['blocks']['source'])} </dev/null\n"
    return [Command(text, f"the superblock of {known.parameters['mountpoint']}", root=True)]


def _is(known: Known, test: str, blocks: int) -> str:
    return (
        on_mount(known)
        + f"""{_COUNT} || cannot_tell "its superblock cannot be read"
[ "${{said% *}}" {test} {blocks} ] && yes "${{said% *}} of ${{said#* }} blocks are kept for root"
no "${{said% *}} of ${{said#* }} blocks are kept for root"
"""
    )


def _pure(known: Known) -> str:
    """Also what the path does not say: a service account or a login has its home there, or the system its swap."""
    return (
        on_mount(known)
        + """case $type in ext2|ext3|ext4) ;; *) no "a $type keeps no blocks for root";; esac
[ "$(readlink -f -- "$m")" = "$m" ] || no "$m is another name of $(readlink -f -- "$m"): give that"
root=$(getent passwd root | cut -d: -f6)
case $root/ in "$m"/*) no "root's home lies on it";; esac
[ ! -e "$m/etc/passwd" ] || no "it holds a system"
while read -r each rest; do case $each in "$m"/*) no "swap lies on it: $each";; esac; done </proc/swaps
yes "a data volume: no system, no swap, not root's home"
"""
    )


LOWER = Step(
    name="reserve",
    title="Lower the reserve",
    why="On a pure data volume nobody needs five per cent for root. No lasting cure: a nearly full ext4 fragments.",
    reads=(
        Read(
            "blocks",
            lambda known: f'{on_mount(known)}{_COUNT} && echo "$said $source"\n',
            _blocks,
            root=True,
            deadline_seconds=PATIENT_SECONDS,
        ),
    ),
    prechecks=(
        patient("it is a pure data volume", _pure),
        patient("it is writable and sound", filesystem.sound),
    ),
    commands=lambda known: _set(known, _keep(known)),
    verify=patient("the reserve is lowered", lambda known: _is(known, "-le", _keep(known))),
    undo=Undo(
        lambda known: _set(known, known.before["blocks"]["reserved"]),
        Check(
            "the reserve is as before", lambda known: _is(known, "-eq", known.before["blocks"]["reserved"]), root=True
        ),
        takes="a second",
    ),
    deadline_seconds=180,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    return filesystem.refuses(parameters) or _system(str(parameters["mountpoint"]))


RUNBOOK = Runbook(
    name="lower-reserve",
    version="1",
    title="Lower root's reserve of an ext4 data volume",
    purpose="A data volume is full for its users while blocks are kept for root, who does not write there.",
    not_when="The system itself lives there; or as the only cure: it buys hours, and a nearly full ext4 fragments.",
    takes="A second.",
    undo_takes="A second.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter(
            "keep_percent", "int", int, KEEP_PERCENT, "what is kept for root, 1 to 5 per cent", lowest=1, highest=5
        ),
    ),
    steps=(LOWER,),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
