"""Looking at a host for one mount point, and every way that follows from what is seen. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.resources import files

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.answer import end_marker, new_nonce
from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.procedures.storage import filesystem, volume
from runbooks_lib.procedures.storage import seen as seeing
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import LOOK
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.quoting import word

DEADLINE_SECONDS = 120.0

_KINDS: tuple[Callable[[Seen, int], Iterable[Way]], ...] = (filesystem.ways, volume.ways)


def look(host: Host, mountpoint: str) -> Seen:
    """Everything that the ways go by, in three round trips. Raises UsageError when nothing is mounted there, HostError
    when the host does not answer or does not let us be root, RunbookError when the mount does not answer."""
    if not mountpoint.startswith("/"):
        raise UsageError("a mount point is an absolute path", where=host.name, true_now="nothing was looked at")
    found = read_snapshot(host, sample_seconds=0, deadline_seconds=60).filesystems.require("its filesystems", host.name)
    mounted = found.at(mountpoint)
    if mounted is None:
        held = found.holding(mountpoint)
        raise UsageError(
            f"nothing is mounted at {mountpoint}",
            where=host.name,
            true_now="nothing was changed",
            next=f"{mountpoint} lies on {held.mountpoint}: name that" if held else "`df` shows what is mounted",
        )
    if mounted.usage is None:
        raise RunbookError(
            f"{mountpoint} does not say how full it is: {mounted.detail or mounted.state}",
            where=host.name,
            true_now="nothing was changed",
            next="a dead network mount or a damaged filesystem must be mended first",
        )
    slow = read_slow(host, ("lvm", "deleted-files", "postgres"))
    assert slow.lvm is not None and slow.deleted_files is not None and slow.postgres is not None  # noqa: S101, PT018
    holders = {str(holder.pid) for file in (slow.deleted_files.value.files if slow.deleted_files.value else ())
               if file.device_number == mounted.device_number for holder in file.holders}  # fmt: skip
    nonce = new_nonce()
    text = f"nonce={nonce} m={word(mountpoint)} pids={word(' '.join(sorted(holders)))}\nlook={word(LOOK)}\n"
    text = f"LC_ALL=C; export LC_ALL\n{LOOK}{text}{files(__package__).joinpath('survey.sh').read_text()}"
    script = Script(text, name="survey of the storage", root=True, end_marker=end_marker(nonce))
    result = host.run(script, deadline_seconds=DEADLINE_SECONDS)
    survey = seeing.parse(result.stdout, nonce)
    return Seen(host.name, mountpoint, mounted, found, survey, slow.lvm, slow.deleted_files, slow.postgres)


def ways(seen: Seen, want_bytes: int) -> tuple[Way, ...]:
    """Every way to about `want_bytes` more, the offered ones first, the safer and quicker before the others."""
    return tuple(sorted((way for kind in _KINDS for way in kind(seen, want_bytes)), key=lambda way: way.order))
