"""Looking at a host for one mount point, and every way that follows from what is seen. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files as resources

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.answer import end_marker, new_nonce
from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.procedures.storage import (
    archiver,
    artifacts,
    deleted,
    filesystem,
    journal,
    logs,
    packages,
    reserve,
    slot,
    volume,
)
from runbooks_lib.procedures.storage import seen as seeing
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import LOOK
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.quoting import word, words

DEADLINE_SECONDS = 300.0  # a host that needs space may crawl

_KINDS: tuple[Callable[[Seen, int], Iterable[Way]], ...] = (
    filesystem.ways,
    volume.ways,
    logs.ways,
    deleted.ways,
    archiver.ways,
    slot.ways,
    reserve.ways,
    packages.ways,
    journal.ways,
)


def look(host: Host, mountpoint: str, files: Sequence[str] = ()) -> Seen:
    """Everything that the ways go by, in three round trips; `files` are those that a person named.

    Raises UsageError when nothing is mounted there, HostError when the host does not answer or does not let us be
    root, RunbookError when the mount does not answer.
    """
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
    servers = [each.data_directory for each in slow.postgres.value or () if each.data_directory]
    asked = "".join(f"mark 'server {number}'; settings_of {word(data)}; " for number, data in enumerate(servers))
    nonce = new_nonce()
    text = f"nonce={nonce} m={word(mountpoint)} pids={word(' '.join(sorted(holders)))}\nlook={word(LOOK)}\n"
    text += f"set -- {words(*files)}\n" if files else "set --\n"
    text += f"databases() {{ {asked}:; }}\n"
    text = f"LC_ALL=C; export LC_ALL\n{LOOK}{text}{resources(__package__).joinpath('survey.sh').read_text()}"
    script = Script(text, name="survey of the storage", root=True, end_marker=end_marker(nonce))
    result = host.run(script, deadline_seconds=DEADLINE_SECONDS)
    survey = seeing.parse(result.stdout, nonce, servers)
    return Seen(host.name, mountpoint, mounted, found, survey, slow.lvm, slow.deleted_files, slow.postgres)


def ways(seen: Seen, want_bytes: int, files: Sequence[str] = ()) -> tuple[Way, ...]:
    """Every way to about `want_bytes` more, the offered ones first, the safer and quicker before the others. `files`:
    those that `look` was asked about."""
    found = [way for kind in _KINDS for way in kind(seen, want_bytes)]
    found += artifacts.ways(seen, want_bytes, files)
    return tuple(sorted((_paid(seen, way) for way in found), key=lambda way: way.order))


def _paid(seen: Seen, way: Way) -> Way:
    """The way with what is left of its gain when root's reserve is whole again; lowering the reserve has counted it."""
    owed = seen.owed_bytes
    if not owed or way.gain_bytes is None or way.name == "lower-reserve":
        return way
    return replace(
        way,
        gain_bytes=max(0, way.gain_bytes - owed),
        most_bytes=None if way.most_bytes is None else max(0, way.most_bytes - owed),
        measured=f"{way.measured}, less {amount(owed)} that root's reserve takes first",
    )
