"""What the tests of the history share: times, snapshots, a real Prometheus server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory

NOON = datetime(2025, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def noon() -> datetime:
    """A fixed now, on a UTC noon."""
    return NOON


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    """An empty history in a file of its own."""
    with SqliteHistory(tmp_path / "history.sqlite") as opened:
        yield opened


@pytest.fixture
def disk() -> Callable[..., list[Sample]]:
    """Makes the samples of one file system at one time, as facts name them."""

    def samples(
        time: datetime,
        used: float,
        *,
        size: float = 100e9,
        mountpoint: str = "/srv/db",
        device: str = "/dev/sdb1",
        reserved: float = 5e9,
        inodes_used: float = 1000,
        inodes: float = 6.5e6,
    ) -> list[Sample]:
        labels = {"device": device, "fstype": "ext4", "mountpoint": mountpoint}
        values = {
            "size_bytes": size,
            "free_bytes": size - used,
            "avail_bytes": max(0.0, size - used - reserved),
            "files": inodes,
            "files_free": inodes - inodes_used,
            "readonly": 0.0,
        }
        return [Sample(f"node_filesystem_{name}", value, time, labels) for name, value in values.items()]

    return samples


@pytest.fixture(name="free_port")
def _free_port_fixture() -> Callable[[], int]:
    """Finds a TCP port of 127.0.0.1 that nobody listens on."""
    return free_port


@pytest.fixture(name="needs")
def _needs_fixture() -> Callable[..., None]:
    """Fails, naming the Debian package, when a program is missing."""
    return needs


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def needs(*programs: tuple[str, str]) -> None:
    """Fails, naming the package, when a program of (name, Debian package) is missing."""
    missing = [package for name, package in programs if shutil.which(name) is None]
    if missing:
        pytest.fail(f"this test needs the package {', '.join(missing)} (apt-get install {' '.join(missing)})")


@pytest.fixture
def prometheus(tmp_path: Path) -> Callable[..., object]:
    """Starts real servers: `with prometheus(openmetrics, scrape_config) as url`."""

    @contextmanager
    def start(openmetrics: str = "", scrape: str = "") -> Iterator[str]:
        needs(("prometheus", "prometheus"), ("promtool", "prometheus"))
        data = tmp_path / "prometheus"
        data.mkdir()
        if openmetrics:
            source = tmp_path / "past.om"
            source.write_text(openmetrics)
            subprocess.run(
                [
                    "promtool",
                    "tsdb",
                    "create-blocks-from",
                    "--max-block-duration=2160h",  # blocks of two hours would take a minute to write and to read
                    "openmetrics",
                    source,
                    data,
                ],
                check=True,
                capture_output=True,
            )
        config = tmp_path / "prometheus.yml"
        config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: [{scrape}]\n")
        port = free_port()
        with (tmp_path / "prometheus.log").open("wb") as log:
            server = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={data}",
                    "--storage.tsdb.retention.time=10y",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/-/ready", server, tmp_path / "prometheus.log")
            yield url
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    return start


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"prometheus did not become ready: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
