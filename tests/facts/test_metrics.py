import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbooks_lib.facts import metrics
from runbooks_lib.facts.slow import SLOW_FACTS
from runbooks_lib.facts.snapshot import Snapshot, parse_snapshot

HERE = Path(__file__).parent


def case(name: str) -> tuple[bytes, str]:
    output = json.loads((HERE / "answer" / f"{name}.json").read_text())["output"]
    return "\n".join(output["stdout"]).encode(), output["nonce"]


def snapshot(name: str = "debian-12-bash") -> Snapshot:
    stdout, nonce = case(name)
    return parse_snapshot("h", stdout, nonce, started=datetime(2026, 11, 23, 22, tzinfo=UTC), duration_seconds=0.05)


def test_a_typical_host_gives_at_most_150_samples_each_once() -> None:
    samples = snapshot().samples()
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    assert 80 < len(samples) <= 150
    assert {sample.time for sample in samples} == {snapshot().time}


def test_pseudo_filesystems_loops_and_second_mounts_are_not_kept() -> None:
    samples = snapshot().samples()
    places = {sample.labels["mountpoint"] for sample in samples if sample.name == "node_filesystem_size_bytes"}
    assert places == {"/", "/mnt/x", "/mnt/b t", "/mnt/e\nnl\\\\o"}
    devices = {sample.labels["device"] for sample in samples if sample.name.startswith("node_disk_")}
    assert devices == {"vda"}
    cards = {sample.labels["device"] for sample in samples if sample.name.startswith("node_network_")}
    assert cards == {"eth0"}


def test_inodes_that_are_not_counted_give_no_samples() -> None:
    counted = {sample.labels["mountpoint"] for sample in snapshot().samples() if sample.name == "node_filesystem_files"}
    assert "/mnt/b t" not in counted
    assert "/mnt/x" in counted


def test_cpu_seconds_are_summed_over_cpus_and_say_so() -> None:
    modes = {s.labels["mode"]: s for s in snapshot().samples() if s.name == "node_cpu_seconds_total"}
    assert set(modes) == {"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}
    assert {sample.labels["cpu"] for sample in modes.values()} == {"all"}


def test_a_dead_mount_gives_no_sample() -> None:
    stdout, nonce = case("debian-12-bash")
    statfs = stdout.index(b" statfs\n")
    row = stdout.index(b"\n4096", statfs)
    dead = stdout[:row] + stdout[stdout.index(b"\n", row + 1) :]
    found = parse_snapshot("h", dead, nonce, started=datetime(2026, 11, 23, 22, tzinfo=UTC), duration_seconds=0.05)
    places = [sample.labels["mountpoint"] for sample in found.samples() if sample.name == "node_filesystem_size_bytes"]
    assert len(places) in (3, 4)


def test_the_second_reading_gives_rates_and_the_samples_are_of_the_first() -> None:
    found = snapshot("debian-12-dash")
    assert found.rates.value is not None
    assert 0.1 < found.rates.value.window_seconds < 1
    assert found.processes.value is not None
    assert found.processes.value.window_seconds > 0.1


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer costs more than the parser")
def test_parsing_one_answer_and_making_its_samples_costs_at_most_1_5_ms_of_cpu() -> None:
    stdout, nonce = case("debian-12-bash")
    began = datetime(2026, 11, 23, 22, tzinfo=UTC)
    costs = []
    for _ in range(60):
        before = time.thread_time()
        parse_snapshot("h", stdout, nonce, started=began, duration_seconds=0.05).samples()
        costs.append(time.thread_time() - before)
    assert min(costs) <= 0.0015


def test_every_fact_stands_in_its_document() -> None:
    document = (HERE.parents[1] / "docs" / "facts.md").read_text()
    facts = [name for name in snapshot().facts() if not name.startswith("pressure ")]
    assert [name for name in (*facts, "pressure", *SLOW_FACTS) if f"`{name}`" not in document] == []


def test_only_the_collector_knows_hosts() -> None:
    for path in Path(metrics.__file__).parent.glob("*.py"):
        assert ("runbooks_lib.hosts" in path.read_text()) == (path.name == "collect.py"), path


def test_ext4_errors_on_a_logical_volume_are_found_under_its_kernel_name() -> None:
    stdout, nonce = case("debian-12-bash")
    text = stdout.decode()
    text = text.replace(" - ext4 /dev/vda ", " - ext4 /dev/mapper/vg0-root ").replace(
        "errors_count\n0", "errors_count\n7"
    )
    found = parse_snapshot(
        "h", text.encode(), nonce, started=datetime(2026, 11, 23, 22, tzinfo=UTC), duration_seconds=0.05
    )
    row = found.filesystems.require().at("/")
    assert row is not None
    assert row.detail == "7 ext4 errors recorded: run fsck"
