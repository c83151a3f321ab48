"""The state of a practice machine as far as a fault may change it, so that "as before" can be checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.training.lab.machine import Machine
from runbooks_lib.training.lab.qemu import DATA_DEVICE

TOLERANCE_BYTES = 72 * 1024**2  # PostgreSQL keeps up to max_wal_size (64 MB) of segments to use again, or few

# Independent commands, each under a name. Nothing here reads through the library's facts.
_COMMANDS: Mapping[str, str] = {
    "mounts": "findmnt --real --raw --noheadings --output TARGET,SOURCE,FSTYPE,OPTIONS | sort",
    "fault units": "systemctl list-units --all --plain --no-legend 'lab-fault-*'",
    "failed units": "systemctl list-units --failed --plain --no-legend",
    "services": "systemctl is-active postgresql@15-main build-server ssh prometheus-node-exporter || true",
    "network queue": "tc qdisc show dev eth0 | grep -c netem || true",
    "swap": "swapon --show=NAME --noheadings",
    "files": "find /srv -path '*/15/main' -prune -o -name lost+found -prune -o -type f -print | sort",
    "deleted files": "lsof -nP +L1 /srv/db 2>/dev/null | grep -v -e COMMAND -e /postgresql/ | wc -l",
}
_SQL: Mapping[str, str] = {
    "settings": "select name, setting from pg_settings where source in ('configuration file', 'override') order by 1",
    "slots": "select slot_name, active from pg_replication_slots order by 1",
    "tables": "select relname from pg_class where relkind in ('r', 'i') and relnamespace = 'public'::regnamespace"
    " order by 1",
    "blocked": "select count(*) from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0",
    "idle in transaction": "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
    " and application_name = 'psql'",
    "archiver": "select failed_count > 0 from pg_stat_archiver",
}


@dataclass(frozen=True)
class World:
    """What each command said, and what each mount point holds in bytes and inodes."""

    said: Mapping[str, str]
    used_bytes: Mapping[str, int]
    used_inodes: Mapping[str, int]


def look(machine: Machine) -> World:
    """The world as it is now."""
    has_database = machine.record.role == "build-server"
    lines = [f"echo '=={name}'; {command}" for name, command in _COMMANDS.items()]
    if has_database:
        lines.append(
            "runuser -u postgres -- psql --no-psqlrc --quiet --no-align --tuples-only buildserver 2>&1 <<'END'"
        )
        lines += [f"\\echo '=={name}'\n{statement};" for name, statement in _SQL.items()]
        lines.append("END")
    lines.append("echo '==space'; df --block-size=1 --output=target,used,iused -x tmpfs -x devtmpfs | tail -n +2")
    said: dict[str, str] = {}
    text = machine.sh("cd /\n" + "\n".join(lines), deadline_seconds=120, changes=False, check=False)
    for part in text.split("\n==")[0:]:
        name, _, rest = part.removeprefix("==").partition("\n")
        said[name] = rest.strip()
    space = [line.split() for line in said.pop("space").splitlines()]
    with machine.qmp() as qmp:
        throttles = [
            f"{device['inserted']['iops']} {device['inserted']['bps']}"
            for device in qmp.execute("query-block")
            if device["device"] == DATA_DEVICE
        ]
    said["throttle"] = " ".join(throttles)
    return World(said, {row[0]: int(row[1]) for row in space}, {row[0]: int(row[2]) for row in space})


def differences(before: World, after: World) -> list[str]:
    """In words, what is not as it was; empty when all is."""
    found = [
        f"{name}: was {before.said.get(name, '')!r}, is {after.said.get(name, '')!r}"
        for name in sorted({*before.said, *after.said})
        if before.said.get(name) != after.said.get(name)
    ]
    for mountpoint, used in after.used_bytes.items():
        grown = used - before.used_bytes.get(mountpoint, 0)
        if grown > TOLERANCE_BYTES:
            found.append(f"{mountpoint} holds {grown} bytes more")
    for mountpoint, used in after.used_inodes.items():
        grown = used - before.used_inodes.get(mountpoint, 0)
        if grown > 50:
            found.append(f"{mountpoint} has {grown} files more")
    return found
