"""Every tests/facts/<fact>/*.json is one case: {description, from, output, expected | refused}.

`output` is what the host said: one text, or the parser's arguments by name; a list is joined with newlines. `expected`
is compared where it speaks: an object with an attribute, a property or a key of that name, a list in full, a number
within 1e-6. `refused` is a part of the message with which the parser refuses the text. A new machine's odd output is
one new file. Which kinds of host a fact has real output of is the table in docs/facts.md, which is held to the cases.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.facts import (
    blocks,
    clock,
    connections,
    cpu,
    deleted_files,
    directories,
    disk_io,
    filesystems,
    identity,
    journal,
    kernel_log,
    limits,
    load,
    lvm,
    memory,
    mounts,
    network,
    postgres,
    postgres_activity,
    pressure,
    process_io,
    processes,
    services,
    tcp,
    units,
    waiting,
)
from runbooks_lib.facts.fact import Damaged
from runbooks_lib.facts.slow import SLOW_FACTS, parse_slow
from runbooks_lib.facts.snapshot import parse_snapshot

HERE = Path(__file__).parent


def _filesystems(
    mountinfo: str,
    statfs: str = "",
    ids: str = "",
    probes: str = "",
    fstab: str = "",
    read_errors: str = "",
    **df: str,
) -> object:
    table = mounts.parse(mountinfo)
    by_id = {mount.id: mount.mountpoint for mount in table.mounts}
    names = [by_id.get(number) for number in filesystems.parse_ids(ids)]
    known = [name for name in names if name]
    figures = (
        filesystems.parse_df(df["df_kib"], df["df_inodes"], known) if df else filesystems.parse_statfs(statfs, names)
    )
    unread = filesystems.parse_read_errors(read_errors)
    return filesystems.assemble(
        table, figures, filesystems.parse_probes(probes), mounts.parse_fstab(fstab), read_errors=unread
    )


def _answer(stdout: str, nonce: str, started: float = 0.0, duration: float = 1.0) -> object:
    began = datetime.fromtimestamp(started, UTC)
    return parse_snapshot("host", stdout.encode(), nonce, started=began, duration_seconds=duration)


def _slow(stdout: str, nonce: str, mountpoint: str = "") -> object:
    return parse_slow(
        "host", stdout.encode(), nonce, ask=SLOW_FACTS, time=datetime.fromtimestamp(0, UTC), mountpoint=mountpoint
    )


PARSERS: dict[str, Callable[..., Any]] = {
    "agents": services.parse_agents,
    "answer": _answer,
    "block_devices": lambda partitions, tree, **attributes: blocks.parse(partitions, tree, attributes),
    "build_queue": services.parse_queue,
    "clock": lambda begin, end, sent, received: clock.parse(begin, end, float(sent), float(received)),
    "connections": connections.parse,
    "cpu": cpu.parse,
    "deleted_files": lambda stats, names, processes: deleted_files.parse(stats, names, processes, True),
    "directories": directories.parse,
    "disk_io": disk_io.parse,
    "filesystems": _filesystems,
    "identity": identity.parse,
    "kernel_log": kernel_log.parse,
    "journal": kernel_log.parse_journal,
    "journal_use": journal.parse_use,
    "last_boot": journal.parse_boots,
    "limits": limits.parse,
    "load": load.parse,
    "lvm": lvm.parse,
    "memory": memory.parse,
    "mounts": mounts.parse,
    "network": network.parse,
    "interfaces": network.parse_interfaces,
    "paging": memory.parse_vmstat,
    "postgres": lambda listed, **sections: postgres.parse_servers(listed, sections),
    "postgres_details": lambda pid, place, **sections: postgres.parse_details(pid, place, sections),
    "postgres_activity": lambda pid, **sections: postgres_activity.parse(pid, sections),
    "pressure": pressure.parse,
    "process_io": lambda rows, names: process_io.parse(rows, names, True),
    "processes": lambda rows, page_bytes: processes.parse(rows, int(page_bytes)),
    "protocols": tcp.parse,
    "slow_answer": _slow,
    "sockets": tcp.parse_sockstat,
    "teamcity_server": services.parse_server,
    "swaps": memory.parse_swaps,
    "units": units.parse,
    "waiting": waiting.parse,
}
CASES = sorted(HERE.glob("*/*.json"))


def _text(output: Any) -> Any:
    if isinstance(output, list):
        return "\n".join(output)
    return {name: _text(part) for name, part in output.items()} if isinstance(output, dict) else output


def run_case(path: Path) -> Any:
    """What the fact's parser makes of the case's output."""
    output = _text(json.loads(path.read_text())["output"])
    parse = PARSERS[path.parent.name]
    return parse(**output) if isinstance(output, dict) else parse(output)


def differences(expected: Any, value: Any, where: str = "") -> list[str]:
    """Where the value is not as expected, in words; empty when it is."""
    if isinstance(expected, dict):
        found: list[str] = []
        for name, wanted in expected.items():
            part = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            found += differences(wanted, part, f"{where}.{name}")
        return found
    if isinstance(expected, list):
        if not isinstance(value, tuple | list) or len(value) != len(expected):
            return [f"{where}: expected {len(expected)} rows, got {value!r}"]
        return [
            text
            for i, pair in enumerate(zip(expected, value, strict=True))
            for text in differences(*pair, f"{where}[{i}]")
        ]
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(expected, float) and isinstance(value, int | float):
        same = math.isclose(expected, value, rel_tol=1e-9, abs_tol=1e-6)
    else:
        same = type(expected) is type(value) and expected == value if isinstance(expected, bool) else expected == value
    return [] if same else [f"{where}: expected {expected!r}, got {value!r}"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_hosts_words_become_this_fact(path: Path) -> None:
    case = json.loads(path.read_text())
    assert case["description"]
    assert case["from"]
    if "refused" in case:
        with pytest.raises(Damaged) as refusal:
            run_case(path)
        assert case["refused"] in str(refusal.value)
    else:
        assert differences(case["expected"], run_case(path)) == []


def test_every_fact_has_a_case_of_real_output() -> None:
    for fact in PARSERS:
        sources = [json.loads(path.read_text())["from"] for path in CASES if path.parent.name == fact]
        assert sources, f"tests/facts/{fact} has no case"


KINDS = ("debian-12", "busybox", "rhel|centos|almalinux|amazon-linux|cloudlinux|pgdg", "alpine")
NOT_OF_A_HOST = {"agents", "answer", "build_queue", "slow_answer", "teamcity_server"}


def _sources(fact: str, kind: str) -> list[str]:
    paths = [path for path in CASES if path.parent.name == fact and re.match(kind, path.stem)]
    return [json.loads(path.read_text())["from"] for path in paths]


def test_the_table_of_real_output_is_true() -> None:
    page = (HERE.parents[1] / "docs/facts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, flags=re.M)
    assert {row[0] for row in rows} == set(PARSERS) - NOT_OF_A_HOST
    for fact, *cells in rows:
        for kind, cell in zip(KINDS, cells, strict=True):
            captured = any("captured" in source for source in _sources(fact, kind))
            assert captured == (cell == "captured"), f"{fact} of {kind}: the table says {cell}"
            if cell == "whole":
                assert kind == "busybox"
