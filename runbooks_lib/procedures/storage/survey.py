"""Looking at a host for one mount point, and every way that follows from what is seen. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files as resources

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.answer import end_marker, new_nonce
from runbooks_lib.facts.collect import complete, quick_request, slow_request
from runbooks_lib.facts.filesystems import Filesystem, Filesystems
from runbooks_lib.facts.slow import parse_slow
from runbooks_lib.facts.snapshot import parse_snapshot
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.procedures.storage import (
    archiver,
    artifacts,
    deleted,
    filesystem,
    journal,
    logs,
    packages,
    pool,
    reserve,
    slot,
    volume,
)
from runbooks_lib.procedures.storage import seen as seeing
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import LOOK
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.quoting import word

DEADLINE_SECONDS = 300.0  # a host that needs space may crawl
_SLOW = ("lvm", "deleted-files", "postgres")

_KINDS: tuple[Callable[[Seen, int], Iterable[Way]], ...] = (
    filesystem.ways,
    volume.ways,
    pool.ways,
    logs.ways,
    deleted.ways,
    archiver.ways,
    slot.ways,
    reserve.ways,
    packages.ways,
    journal.ways,
)


def look(host: Host, mountpoint: str, files: Sequence[str] = ()) -> Seen:
    """Everything that the ways go by, in one round trip; `files` are those that a person named.

    Raises UsageError when nothing is mounted there, HostError when the host does not answer or does not let us be
    root, RunbookError when the mount does not answer.
    """
    if not mountpoint.startswith("/"):
        raise UsageError("a mount point is an absolute path", where=host.name, true_now="nothing was looked at")
    quick, slow, nonce = quick_request(0), slow_request(_SLOW), new_nonce()
    text = (
        f"(\n{quick.script.text}\n) <<'END_OF_QUICK'\n{quick.input.decode()}END_OF_QUICK\n"
        f"rows='' here=''\n{slow.script.text}\n{LOOK}nonce={nonce} m={word(mountpoint)}\nlook={word(LOOK)}\n"
        f"set --{''.join(f' {word(file)}' for file in files)}\n"
        f"{resources(__package__).joinpath('survey.sh').read_text()}"
    )
    script = Script(text, name="survey of the storage", root=True, end_marker=end_marker(nonce))
    result = host.run(script, input=slow.input, deadline_seconds=DEADLINE_SECONDS)
    with complete(host.name, result):
        snapshot = parse_snapshot(
            host.name, result.stdout, quick.nonce, started=result.started, duration_seconds=result.duration_seconds
        )
        said = parse_slow(host.name, result.stdout, slow.nonce, ask=_SLOW, time=result.started)
        assert said.lvm is not None and said.deleted_files is not None and said.postgres is not None  # noqa: S101, PT018
        servers = {each.pid: each.data_directory for each in said.postgres.value or () if each.data_directory}
        survey = seeing.parse(result.stdout, nonce, servers)
    found = snapshot.filesystems.require("its filesystems", host.name)
    mounted = _mounted(host.name, mountpoint, found)
    if not survey.source:
        raise RunbookError(
            f"{mountpoint} did not answer within two seconds when it was looked at again",
            where=host.name,
            true_now="nothing was changed",
            next="ask again; if it stays so, `runbook triage` says what its disk waits for",
        )
    return Seen(host.name, mountpoint, mounted, found, survey, said.lvm, said.deleted_files, said.postgres)


def _mounted(host: str, mountpoint: str, found: Filesystems) -> Filesystem:
    mounted = found.at(mountpoint)
    if mounted is None:
        held = found.holding(mountpoint)
        raise UsageError(
            f"nothing is mounted at {mountpoint}",
            where=host,
            true_now="nothing was changed",
            next=f"{mountpoint} lies on {held.mountpoint}: name that" if held else "`df` shows what is mounted",
        )
    if mounted.usage is None:
        raise RunbookError(
            f"{mountpoint} does not say how full it is: {mounted.detail or mounted.state}",
            where=host,
            true_now="nothing was changed",
            next="a dead network mount or a damaged filesystem must be mended first",
        )
    return mounted


def ways(seen: Seen, want_bytes: int, files: Sequence[str] = ()) -> tuple[Way, ...]:
    """Every way to about `want_bytes` more, the offered ones first, the safer and quicker before the others. `files`:
    those that `look` was asked about."""
    found = [way for kind in _KINDS for way in kind(seen, want_bytes)]
    found += artifacts.ways(seen, want_bytes, files)
    found = [replace(way, refused=way.refused or pool.instead(seen, way)) for way in found]
    return tuple(sorted((_paid(seen, way) for way in found), key=lambda way: way.order))


def _paid(seen: Seen, way: Way) -> Way:
    """The way with what is left of its gain when root's reserve is whole again; lowering the reserve has counted it,
    and a pool has none."""
    owed = seen.owed_bytes
    if not owed or way.gain_bytes is None or way.name in ("lower-reserve", "extend-pool"):
        return way
    return replace(
        way,
        gain_bytes=max(0, way.gain_bytes - owed),
        most_bytes=None if way.most_bytes is None else max(0, way.most_bytes - owed),
        measured=f"{way.measured}, less {amount(owed)} that root's reserve takes first",
    )
