"""CSV files as people have them: read whole, or refused with every bad line's number."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.history import HistoryMissing, SqliteHistory
from runbooks_lib.history.import_csv import import_csv

NOW = datetime(2025, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "past.csv"


@pytest.mark.parametrize("until", [timedelta(), timedelta(days=600)], ids=["samples kept", "hours and days only"])
def test_a_file_that_was_mended_takes_the_place_of_what_it_brought(
    history: SqliteHistory, file: Path, until: timedelta
) -> None:
    now = NOW + until

    def write(factor: float) -> None:
        lines = [f"{1741046400 + 3600 * hour},{factor * (10e9 + hour * 1e8)}" for hour in range(96)]
        file.write_text("time,used_bytes\n" + "\n".join(lines) + "\n")
        import_csv(history, file, instance="db-01", mountpoint="/srv/db", now=now)

    def highest() -> list[float]:
        found = history.filesystem("db-01", "/srv/db", end=NOW, days=400)
        assert found is not None
        return found.used_bytes_max.tolist()

    right = [10e9 + (24 * day + 23) * 1e8 for day in range(4)]
    write(1.024)
    assert highest() == pytest.approx([1.024 * value for value in right])
    write(1.0)
    assert highest() == pytest.approx(right)
    file.write_text("time,used_bytes\n1741046400,9e9\n")  # an hour alone is not the whole day
    import_csv(history, file, instance="db-01", mountpoint="/srv/db", now=now)
    assert highest() == pytest.approx(right)
    # What another origin brought as well is not taken away.
    file.write_text("time,used_bytes\n1741082400,30e9\n")
    import_csv(history, file.rename(file.with_name("other.csv")), instance="db-01", mountpoint="/srv/db", now=now)
    write(1.0)
    assert highest() == pytest.approx([30e9, *right[1:]])


def test_one_partition_a_row(history: SqliteHistory, file: Path) -> None:
    file.write_text(
        "time,used_bytes,size_bytes,avail_bytes,inodes_used,inodes_total\n"
        "2025-03-08T00:00:00Z,10e9,100e9,85e9,1000,6500000\n"
        "2025-03-08T23:00:00+01:00,12000000000,100000000000,83000000000,1100,6500000\n"
        "\n# a remark\n"
        "1741478400,11e9,200e9,180e9,1200,13000000\n"  # 2025-03-09T00:00:00Z
        "1741482000000,11.5e9,200e9,,,\n"
    )
    done = import_csv(history, file, instance="db-01", mountpoint="/srv/db", now=NOW)
    assert done.origin == "imported from past.csv"
    assert done.instances == ("db-01",)
    found = history.filesystem("db-01", "/srv/db", end=NOW)
    assert found is not None
    assert found.days.tolist() == [datetime(2025, 3, 8).date(), datetime(2025, 3, 9).date()]  # noqa: DTZ001
    assert found.used_bytes_max.tolist() == [12e9, 11.5e9]
    assert found.size_bytes.tolist() == [100e9, 200e9]
    assert found.reserved_bytes[0] == 5e9
    assert found.inodes_used_max.tolist() == [1100, 1200]
    assert found.inodes_total.tolist() == [6.5e6, 13e6]
    assert found.origins == ("imported from past.csv",)
    assert found.recent.times.astype(np.int64).tolist() == [1741392000, 1741471200, 1741478400, 1741482000]


def test_only_what_is_used_is_enough(history: SqliteHistory, file: Path) -> None:
    file.write_text("time;used_bytes\n2025-03-08;1e9\n2025-03-09;2e9\n")
    import_csv(history, file, instance="db-01", mountpoint="/", now=NOW)
    found = history.filesystem("db-01", "/", end=NOW)
    assert found is not None
    assert found.used_bytes_max.tolist() == [1e9, 2e9]
    assert np.isnan(found.size_bytes).all()


def test_many_hosts_in_one_file_packed_with_a_byte_order_mark(history: SqliteHistory, tmp_path: Path) -> None:
    file = tmp_path / "all.csv.gz"
    rows = "".join(f"2025-03-08T00:00:00Z\tdb-0{n}\t/srv/ü {n}\t{n}e9\n" for n in range(1, 4))
    file.write_bytes(gzip.compress(("\ufefftime\tinstance\tmountpoint\tused_bytes\n" + rows).encode()))
    import_csv(history, file, now=NOW)
    assert history.filesystems() == [("db-01", "/srv/ü 1"), ("db-02", "/srv/ü 2"), ("db-03", "/srv/ü 3")]


def test_one_sample_a_row_with_labels_in_columns(history: SqliteHistory, file: Path) -> None:
    file.write_text(
        "time,instance,metric,mountpoint,device,fstype,value\n"
        '2025-03-08T00:00:00Z,db-01,node_filesystem_size_bytes,"/a,b ""c""",/dev/sda,ext4,100\n'
        '2025-03-08T00:00:00Z,db-01,node_filesystem_free_bytes,"/a,b ""c""",/dev/sda,ext4,40\n'
        "2025-03-08T00:00:00Z,db-01,node_load1,,,,NaN\n"
    )
    import_csv(history, file, now=NOW)
    found = history.filesystem("db-01", '/a,b "c"', end=NOW)
    assert found is not None
    assert found.used_bytes_max.tolist() == [60]
    assert found.device == "/dev/sda"
    (load,) = history.series("node_load1", end=NOW)
    assert load.labels == {"instance": "db-01"}


def test_a_zone_for_times_that_name_none(history: SqliteHistory, file: Path) -> None:
    file.write_text("time,used_bytes\n2025-03-08 00:30:00,1\n")
    with pytest.raises(UsageError, match="line 2: a time without a zone"):
        import_csv(history, file, instance="a", mountpoint="/", now=NOW)
    import_csv(history, file, instance="a", mountpoint="/", zone=ZoneInfo("Europe/Berlin"), now=NOW)
    found = history.filesystem("a", "/", end=NOW)
    assert found is not None
    assert found.last_time == datetime(2025, 3, 8, 0, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize("zone", [None, ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")])
@pytest.mark.parametrize("day", ["2025-03-08", "20250308"])
def test_a_date_alone_is_that_day_whatever_the_zone(
    history: SqliteHistory, file: Path, day: str, zone: ZoneInfo | None
) -> None:
    file.write_text(f"time,used_bytes\n{day},1\n")
    import_csv(history, file, instance="a", mountpoint="/", zone=zone, now=NOW)
    found = history.filesystem("a", "/", end=NOW)
    assert found is not None
    assert found.last_time == datetime(2025, 3, 8, tzinfo=UTC)


BAD = {
    "yesterday,1": "not a time",
    "2025-03-08T00:00:00,1": "without a zone",
    "1e400,1": "not a time",
    "99999999999999999999,1": "not a time",
    "-5,1": "not a time",
    "2025-02-30,1": "not a time",
    "2025-03-08,": "no used_bytes",
    "2025-03-08,12 GB": "is not a number",
    "2025-03-08,-1": "cannot be",
    "2025-03-08,nan": "cannot be",
    "2025-03-08,1,2": "3 columns, the header has 2",
    "2025-03-08": "1 columns, the header has 2",
    '2025-03-08,"1': "line 3",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named_by_number_and_nothing_is_kept(history: SqliteHistory, file: Path, line: str) -> None:
    file.write_text(f"time,used_bytes\n2025-03-07,1\n{line}\n")
    with pytest.raises(UsageError) as caught:
        import_csv(history, file, instance="a", mountpoint="/", now=NOW)
    assert "line 3" in caught.value.what
    assert BAD[line] in caught.value.what
    assert str(file) in str(caught.value)
    assert caught.value.true_now == "nothing was imported"
    with pytest.raises(HistoryMissing):
        history.instances()


def test_every_bad_line_is_counted_and_the_first_are_shown(history: SqliteHistory, file: Path) -> None:
    file.write_text("time,used_bytes,size_bytes\n" + "2025-03-07,5,4\n" * 30)
    with pytest.raises(UsageError) as caught:
        import_csv(history, file, instance="a", mountpoint="/", now=NOW)
    assert caught.value.what.startswith("30 bad lines")
    assert "line 2: more used (5) than there is (4)" in caught.value.what
    assert "… and 10 more" in caught.value.what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no line with a value"),
        (b"time,used_bytes\n", "no line with a value"),
        (b"when,used\n1,2\n", "header is not understood"),
        (b"time,used_bytes,sise_bytes\n1,2,3\n", "unknown: sise_bytes"),
        (b"time,used_bytes,used_bytes\n1,2,3\n", "twice"),
        (b"time,used_bytes\n2025-03-08,\xff\xfe\n", "not UTF-8"),
        (b"\x1f\x8b\x08\x00 not really gzip", "cannot be read"),
        (gzip.compress(b"time,used_bytes\n2025-03-08,1\n" * 1000)[:-20], "cannot be read"),
        (b"time,used_bytes\n2031-03-08,1\n", "from the future"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    history: SqliteHistory, file: Path, content: bytes, said: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        import_csv(history, file, instance="a", mountpoint="/", now=NOW)
    with pytest.raises(HistoryMissing):
        history.instances()


def test_host_and_mount_point_must_come_from_somewhere(history: SqliteHistory, file: Path) -> None:
    file.write_text("time,used_bytes\n2025-03-08,1\n")
    with pytest.raises(UsageError, match="which host"):
        import_csv(history, file, mountpoint="/", now=NOW)
    with pytest.raises(UsageError, match="which partition"):
        import_csv(history, file, instance="a", now=NOW)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        import_csv(history, file.with_name("none.csv"), instance="a", mountpoint="/", now=NOW)
