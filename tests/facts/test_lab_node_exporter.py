"""Our samples beside those of a real node_exporter: same names, same labels, values within what changed in between."""

import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from runbooks_lib.facts import collect
from runbooks_lib.facts.samples import Sample
from runbooks_lib.hosts.host import Host

pytestmark = pytest.mark.lab
Key = tuple[str, tuple[tuple[str, str], ...]]
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)\Z")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What goes up and down: memory in bytes, the rest in its own unit, and how far it may have moved in a second.
GAUGES = {
    "node_memory_": 256 * 2**20,
    "node_filesystem_": 256 * 2**20,
    "node_load": 0.5,
    "node_procs_": 30,
    "node_sockstat_": 300,
    "node_filefd_allocated": 3000,
    "node_disk_io_now": 64,
    "node_nf_conntrack_entries": 300,
    "node_netstat_Tcp_CurrEstab": 100,
}
# Made here, and not by node_exporter under these labels: see runbooks_lib.facts.metrics.
OURS = {"node_cpu_seconds_total"}


@pytest.fixture(scope="module")
def exporter() -> Iterator[str]:
    program = shutil.which("prometheus-node-exporter")
    assert program, "this test needs the Debian package prometheus-node-exporter"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program, f"--web.listen-address={address}", "--no-collector.systemd", "--log.level=error"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            for _ in range(100):
                try:
                    urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            else:
                pytest.fail("node_exporter did not come up")
            yield f"http://{address}/metrics"
        finally:
            child.kill()


def scrape(address: str) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for line in urllib.request.urlopen(address, timeout=10).read().decode().splitlines():  # noqa: S310
        match = LINE.match(line)
        if match is None or line.startswith("#"):
            continue
        labels = tuple(
            sorted(
                (k, v.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\"))
                for k, v in LABEL.findall(match[2] or "")
            )
        )
        found[match[1], labels] = float(match[3])
    return found


def key(sample: Sample) -> Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def test_every_sample_of_ours_has_a_twin_with_the_same_value(exporter: str, host: Host) -> None:
    before = scrape(exporter)
    samples = collect.read_snapshot(host, sample_seconds=0).samples()
    after = scrape(exporter)
    compared = 0
    for sample in samples:
        if sample.name in OURS:
            continue
        assert key(sample) in after, f"node_exporter has no {key(sample)}"
        low, high = sorted((before[key(sample)], after[key(sample)]))
        slack = max((most for prefix, most in GAUGES.items() if sample.name.startswith(prefix)), default=0.02)
        # node_exporter leaves the counters' last digit to floats; its tick counts are cut to 10 ms.
        assert low - slack - 1e-6 * abs(low) <= sample.value <= high + slack + 1e-6 * abs(high), (sample, low, high)
        compared += 1
    assert compared > 80


def test_cpu_seconds_of_all_cpus_are_the_sum_of_each(exporter: str, host: Host) -> None:
    before = scrape(exporter)
    samples = collect.read_snapshot(host, sample_seconds=0).samples()
    after = scrape(exporter)

    def summed(found: dict[Key, float], mode: str) -> float:
        return sum(
            v for (name, labels), v in found.items() if name == "node_cpu_seconds_total" and ("mode", mode) in labels
        )

    ours = [sample for sample in samples if sample.name == "node_cpu_seconds_total"]
    assert {sample.labels["mode"] for sample in ours} == {
        dict(labels)["mode"] for name, labels in after if name == "node_cpu_seconds_total"
    }
    for sample in ours:
        low, high = sorted((summed(before, sample.labels["mode"]), summed(after, sample.labels["mode"])))
        assert low - 0.2 <= sample.value <= high + 0.2, sample


def test_no_disk_and_no_large_filesystem_of_node_exporter_is_missing(exporter: str, host: Host) -> None:
    samples = collect.read_snapshot(host, sample_seconds=0).samples()
    ours = {key(sample) for sample in samples}
    devices = {sample.labels["device"] for sample in samples if sample.name == "node_filesystem_size_bytes"}
    theirs = scrape(exporter)
    for name, labels in theirs:
        values = dict(labels)
        if name == "node_filesystem_size_bytes" and values["fstype"] in ("ext4", "xfs", "btrfs", "vfat", "nfs4"):
            assert values["device"] in devices
        if name == "node_disk_io_now" and re.match(r"(sd|vd|xvd|nvme|dm-|md)", values["device"]):
            assert (name, labels) in ours
