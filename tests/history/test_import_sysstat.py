"""Archives of sysstat: real answers of `sadf`, and a real sysstat."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib.history import HistoryError, SqliteHistory
from runbooks_lib.history.import_sysstat import LIST, READ, import_sysstat, parse
from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.local import LocalHost

ANSWERS = Path(__file__).parent / "sysstat"
MIB = 1024.0**2


@dataclass
class Answering:
    """A host that answers each script as it was told."""

    answers: dict[str, tuple[bytes, int]]
    name: str = "db-01"
    asked: list[bytes] = field(default_factory=list)

    def run(self, script: Script, *, input: bytes = b"", **_: object) -> Result:
        self.asked.append(input)
        output, status = self.answers.get(script.name, (b"", 1))
        error = b"" if status == 0 else b"Invalid system activity file\n"
        return Result(self.name, script.sha256, output, error, status, None, datetime.now(UTC), 0.1)

    def close(self) -> None:
        pass


def values(answer: bytes) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for key, second, value in parse(answer):
        found.setdefault(key, {})[second] = value
    return found


def test_an_answer_of_debian_12_has_node_exporters_names() -> None:
    found = values((ANSWERS / "debian-12.json").read_bytes())
    root = '\n{"device":"","fstype":"","mountpoint":"/"}'
    (size,) = set(found[f"node_filesystem_size_bytes{root}"].values())
    assert size == (233593 + 24427) * MIB
    assert set(found[f"node_filesystem_files{root}"].values()) == {16320951 + 456265}
    (avail,) = set(found[f"node_filesystem_avail_bytes{root}"].values())
    assert abs(avail - size * (1 - 0.6920)) < 1
    # A mount point with a newline in its name, which sadf writes as it is into its JSON.
    assert 'node_filesystem_size_bytes\n{"device":"","fstype":"","mountpoint":"/mnt/e\\nnl\\\\o"}' in found
    cpu = [found[f'node_cpu_seconds_total\n{{"cpu":"all","mode":"{mode}"}}'] for mode in ("user", "idle", "system")]
    for counter in cpu:
        ordered = [counter[second] for second in sorted(counter)]
        assert ordered == sorted(ordered)
    assert "node_memory_MemAvailable_bytes\n{}" in found
    assert "node_load1\n{}" in found
    assert 'node_network_receive_bytes_total\n{"device":"eth0"}' in found
    assert 'node_disk_written_bytes_total\n{"device":"vda"}' in found


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[1]", b'{"sysstat": {"hosts": [{"number-of-cpus": "x"}]}}', b'{"sysstat": {"hosts": [3]}}', b"\xff"],
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(HistoryError, match="not understood"):
        list(parse(answer))


def test_times_that_are_not_utc_are_refused() -> None:
    answer = (ANSWERS / "debian-12.json").read_bytes().replace(b'"utc": 1', b'"utc": 0')
    with pytest.raises(HistoryError, match="not in UTC"):
        list(parse(answer))


def test_a_host_without_sysstat_says_so(history: SqliteHistory) -> None:
    with pytest.raises(HistoryError, match="not installed") as caught:
        import_sysstat(history, Answering({LIST.name: (b"no sadf\n", 0)}))
    assert caught.value.where == "db-01"
    with pytest.raises(HistoryError, match="kept nothing"):
        import_sysstat(history, Answering({LIST.name: (b"sadf 12.6.1\n", 0)}))


def test_archives_that_cannot_be_read_are_told_and_the_others_kept(history: SqliteHistory) -> None:
    listed = "sadf 12.6.1\narchive /var/log/sysstat/sa $(id) \udcff\npacked /x/sa01.xz\ndenied /x/sa02\n"
    host = Answering(
        {
            LIST.name: (listed.encode("utf-8", "surrogateescape"), 0),
            READ.name: ((ANSWERS / "debian-12.json").read_bytes(), 0),
        }
    )
    done = import_sysstat(history, host, instance="tc-db-01")
    assert host.asked[1] == b"/var/log/sysstat/sa $(id) \xff\n"
    assert done.archives == 1
    assert done.skipped == (("/x/sa01.xz", "compressed; unpack it there"), ("/x/sa02", "not allowed to read it"))
    assert done.has_filesystems
    assert done.advice == ""
    found = history.filesystem("tc-db-01", "/")
    assert found is not None
    assert found.used_bytes_max.tolist() == [24427 * MIB]
    assert found.origins == ("imported from sysstat on db-01",)
    before = {name: history.series(name)[0].values for name in ("node_cpu_seconds_total", "node_load1")}
    import_sysstat(history, host, instance="tc-db-01")
    for name, old in before.items():
        np.testing.assert_array_equal(history.series(name)[0].values, old)
    again = history.filesystem("tc-db-01", "/")
    assert again is not None
    assert again.samples == found.samples


@pytest.fixture
def archive(needs: Callable[..., None]) -> Iterator[Path]:
    """An archive among this machine's own, written by the real collector."""
    needs(("sadf", "sysstat"))
    if os.geteuid() != 0:
        pytest.fail("this test writes to /var/log/sysstat and needs root")
    place = Path("/var/log/sysstat")
    place.mkdir(exist_ok=True)
    path = place / f"sa{datetime.now(UTC):%Y%m%d}"
    if path.exists():
        path = place / "sa19990101"
    subprocess.run(["/usr/lib/sysstat/sadc", "-F", "-L", "-S", "XALL", "1", "3", path], check=True, timeout=30)
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.lab
def test_a_real_sysstat_becomes_a_past(history: SqliteHistory, archive: Path) -> None:
    spoiled = archive.with_name("sa19990102")
    spoiled.write_bytes(b"not an archive")
    try:
        host = LocalHost("this-machine")
        done = import_sysstat(history, host)
    finally:
        spoiled.unlink()
    assert done.imported is not None
    assert done.has_filesystems
    assert any(path == str(spoiled) and "Invalid" in reason for path, reason in done.skipped)
    assert ("this-machine", "/") in history.filesystems()
    found = history.filesystem("this-machine", "/")
    assert found is not None
    usage = shutil.disk_usage("/")
    assert found.size_bytes[-1] == pytest.approx(usage.total, abs=2 * MIB)
    assert found.used_bytes_max[-1] == pytest.approx(usage.used, abs=512 * MIB)  # other tests write meanwhile
    assert abs(found.last_time.timestamp() - time.time()) < 60
    cpu = history.series("node_cpu_seconds_total", {"instance": "this-machine"})
    assert {series.labels["mode"] for series in cpu} >= {"user", "system", "idle", "iowait", "steal", "nice"}
    total = sum(series.values[-1] for series in cpu)
    assert total == pytest.approx((os.cpu_count() or 1) * 2, rel=0.6)  # two seconds of each CPU
    assert history.series("node_memory_MemAvailable_bytes")[0].values[-1] > 0
