"""How fast a disk is, is measured on what is to be copied, and an estimate goes by the slowest of all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from runbooks_lib.hosts.host import Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.disk_rates import copying_seconds, parse_rates, pause_words, rates_words, read_rates
from runbooks_lib.runbook.quoting import word, words
from runbooks_lib.runbook.step import Known

MB = 10**6
PLACE = {"bytes": 100e6, "small": 1000.0, "large_bytes": 80e6}
UNMEASURED = {"small_seconds": None, "bytes_per_second": None, "target_bytes_per_second": None}
# dd's own words, of a disk that does one operation in a tenth of a second.
SLOW_DD = """#!/bin/sh
for each; do case $each in
  if=*) file=${each#if=};; count=*) count=${each#count=};; skip=*) skip=${each#skip=};; iflag=direct) direct=yes;;
esac; done
[ "$direct" = yes ] || exit 1
left=$(($(wc -c <"$file") - ${skip:-0} * 131072)); [ $left -gt 0 ] || left=0
[ $left -lt $((count * 131072)) ] || left=$((count * 131072))
echo "1+0 records in" >&2
echo "$left bytes (x) copied, $(((left + 131071) / 131072))e-1 s, 1.3 MB/s" >&2
"""


def measured(directory: Path, *, without: str = "", path: str = "") -> dict[str, dict[str, float | None]]:
    """What is read of a directory, the target beside it; with `path` these programs come first."""
    read = read_rates(lambda _: f"rates . {words(str(directory.parent / 'to'), str(directory))}\n", without=without)
    text = (f"PATH={word(path)}:$PATH\n" if path else "") + read.script(Known({}))
    result = LocalHost().run(Script(text, name="rates"), deadline_seconds=60)
    assert result.exit_status == 0, result
    return parse_rates(result.stdout)


def a_directory(place: Path) -> Path:
    made = place / "it is\\here"
    (made / "deep" / "pg_wal").mkdir(parents=True)
    for number in range(40):
        (made / "deep" / f"small {number}").write_bytes(b"x" * 8192)
    (made / "large\nsize").write_bytes(b"x" * 5 * 2**20)
    (made / "large").write_bytes(b"x" * 5 * 2**20)
    (made / "deep" / "pg_wal" / "segment").write_bytes(b"x" * 2**20)
    (made / "empty").write_bytes(b"")
    return made


def test_a_slow_disk_is_seen_by_its_large_and_its_small_files(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dd").write_text(SLOW_DD)
    (tools / "dd").chmod(0o755)
    directory = a_directory(tmp_path)
    (place,) = measured(directory, without="pg_wal", path=str(tools)).values()
    assert place["small"] == 40
    assert place["large_bytes"] == 10 * 2**20
    assert place["bytes"] == 40 * 8192 + 10 * 2**20
    assert place["small_seconds"] == pytest.approx(0.1)
    assert place["bytes_per_second"] == pytest.approx(1310720)
    least, most = copying_seconds({".": {**place, "target_bytes_per_second": None}}, 11 * MB, 0)
    assert least == pytest.approx(40 * 0.1 + 8)
    assert most == pytest.approx(2.5 * least + 2)
    (all_of_it,) = measured(directory, path=str(tools)).values()
    assert all_of_it["large_bytes"] == 11 * 2**20


def test_a_real_disk_is_measured_or_said_not_to_be(tmp_path: Path) -> None:
    (place,) = measured(a_directory(tmp_path)).values()
    rate, each = place["bytes_per_second"], place["small_seconds"]
    assert (rate is None) == (each is None)  # a filesystem in memory may not do it
    assert rate is None or rate > 0
    said = rates_words({".": place})
    assert ("could not be measured" in said) == (rate is None and place["target_bytes_per_second"] is None)


def test_a_file_name_makes_it_read_nothing_else(tmp_path: Path) -> None:
    """As root, to open some devices is to do something: /dev/watchdog starts a clock that ends with a boot."""
    tools, directory, told = tmp_path / "tools", tmp_path / "data", tmp_path / "told"
    tools.mkdir()
    (tools / "dd").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{told}\n")
    (tools / "dd").chmod(0o755)
    for size in (5, 500_000):
        (directory / f"x\n{size} " / "dev").mkdir(parents=True)
    (directory / "x\n5 /dev/watchdog").write_bytes(b"12345")
    (directory / "x\n500000 /dev/watchdog").write_bytes(b"1" * 500_000)
    (directory / "small").write_bytes(b"12345")
    (place,) = measured(directory, path=str(tools)).values()
    assert (place["small"], place["large_bytes"], place["bytes"]) == (2, 500_000, 500_010)
    read = [line for line in told.read_text().splitlines() if str(directory) in line or "watchdog" in line]
    assert read
    assert all(f"if={directory}/small " in line for line in read)


@pytest.mark.skipif(os.geteuid() != 0, reason="the target's device is root's to read")
def test_nothing_is_written(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    measured(directory)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_directory_with_nothing_in_it_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (place,) = measured(tmp_path / "none").values()
    assert (place["bytes"], place["small_seconds"], place["bytes_per_second"]) == (0, None, None)
    assert copying_seconds({".": {**place, "target_bytes_per_second": None}}, 0, 0) == (0, 2)


def test_answers_are_read_place_by_place_and_a_stuck_disk_is_a_slow_one() -> None:
    found = parse_rates(
        b"place . 300 2 100\nlarge 2097152 bytes (2.1 MB, 2.0 MiB) copied, 0.5 s, 4.2 MB/s\n"
        b"large 1048576 bytes copied, 1.0e-1 seconds\nsmall 3 bytes copied, 0.02 s, 0.1 kB/s\n"
        b"place pg_tblspc/16385 5 0 5\nlarge 0 bytes copied, 10 s\n"
        b"target 2097152 bytes (2.1 MB, 2.0 MiB) copied, 0.01 s, 210 MB/s\n"
    )
    assert found["."]["bytes_per_second"] == pytest.approx(3145728 / 0.6)
    assert found["."]["small_seconds"] == pytest.approx(0.02)
    assert found["."]["target_bytes_per_second"] is None
    assert found["pg_tblspc/16385"]["bytes_per_second"] == pytest.approx(0.1)
    assert copying_seconds(found, 305, 0)[0] == pytest.approx(2 * 0.02 + 50, rel=0.01)


@pytest.mark.parametrize(
    ("rates", "throttle", "least", "most"),
    [
        (UNMEASURED, 0, 0.25, 4),  # a disk of today
        (UNMEASURED, 10, 9.54, 11.5),  # the throttle
        ({**UNMEASURED, "small_seconds": 0.1, "bytes_per_second": 2 * MB}, 0, 140, 352),  # the source
        ({**UNMEASURED, "small_seconds": 0.1, "bytes_per_second": 2 * MB}, 10, 140, 352),
        ({**UNMEASURED, "target_bytes_per_second": 5 * MB}, 0, 20, 52),  # the target
        ({**UNMEASURED, "bytes_per_second": 2 * MB}, 0, 105.5, 265.8),  # small files take as long as a part
        ({"small_seconds": 1e-4, "bytes_per_second": 900 * MB, "target_bytes_per_second": 900 * MB}, 0, 0.25, 4),
    ],
)
def test_the_slowest_of_source_target_and_throttle_decides(
    rates: dict[str, float | None], throttle: int, least: float, most: float
) -> None:
    found = copying_seconds({".": {**PLACE, **rates}}, 100 * MB, throttle)
    assert found == pytest.approx((least, most), rel=0.01)


def test_a_slow_disk_makes_the_pause_longer_and_that_is_said() -> None:
    assert pause_words({}) == "about a second"
    assert pause_words({".": {**PLACE, **UNMEASURED, "small_seconds": 0.008}}) == "about a second"
    said = pause_words({".": {**PLACE, **UNMEASURED}, "pg_tblspc/1": {**PLACE, **UNMEASURED, "small_seconds": 0.083}})
    assert re.match(r"about 7 to 26 s \(the last checkpoint .* 83 ms for each operation\)", said)


def test_what_was_measured_is_said_in_a_sentence() -> None:
    fast = {**PLACE, "small_seconds": 0.0001, "bytes_per_second": 5e8, "target_bytes_per_second": 3e8}
    assert rates_words({".": fast}) == (
        "now, the disk gives 500 MB/s of large files or 10000 small files a second (there are 1000); "
        "the new one reads 300 MB/s; what it takes is tried before copying"
    )
    assert (
        rates_words({})
        == rates_words({".": {**PLACE, **UNMEASURED}})
        == ("how fast the disks are could not be measured")
    )
    assert rates_words({"pg_tblspc/7": {**PLACE, **UNMEASURED, "bytes_per_second": 8e5}}) == (
        "pg_tblspc/7: now, the disk gives 0.8 MB/s of large files"
    )
