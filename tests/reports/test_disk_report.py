"""The capacity report prepared from a real history file: its sentences, its order, and what it admits not to know."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.config import Config
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.reports import disk_report, result
from runbooks_lib.training import example_past

NOW = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
GIB = 2.0**30


def filesystem(
    mountpoint: str,
    used_gib: float,
    *,
    time: datetime,
    size_gib: float = 500.0,
    device: str | None = None,
    fstype: str = "ext4",
) -> Iterable[Sample]:
    labels = {"device": device or f"/dev/disk{mountpoint}", "fstype": fstype, "mountpoint": mountpoint}
    free = size_gib - used_gib
    for name, value in (
        ("size_bytes", size_gib * GIB),
        ("free_bytes", free * GIB),
        ("avail_bytes", free * GIB),
        ("files", 1e7),
        ("files_free", 9e6),
        ("readonly", 0.0),
    ):
        yield Sample(f"node_filesystem_{name}", value, time, labels)


def keep(history: SqliteHistory, instance: str, samples: Iterable[Sample]) -> None:
    """The past of a host as imported, its last snapshot as collected."""
    ordered = sorted(samples, key=lambda sample: sample.time)
    last = ordered[-1].time
    past = [sample for sample in ordered if sample.time < last]
    if past:
        history.import_samples(past, origin="imported from past.csv", instance=instance, now=NOW)
    history.store_snapshot(instance, last, [sample for sample in ordered if sample.time == last])


def growing(
    mountpoint: str, *, per_day: float, last: float, days: int = 200, until: datetime = NOW
) -> Iterable[Sample]:
    for age in range(days, -1, -1):
        yield from filesystem(mountpoint, last - per_day * age, time=until - timedelta(days=age, hours=1))


def inventory(directory: Path, hosts: str) -> Config:
    file = directory / "runbooks.toml"
    file.write_text(f'[history]\npath = "history.sqlite"\n{hosts}')
    return config.load(file)


@pytest.fixture
def history(tmp_path: Path) -> Iterable[SqliteHistory]:
    store = SqliteHistory(tmp_path / "history.sqlite")
    yield store
    store.close()


def test_the_worst_comes_first_and_needs_one_sentence_each(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100))
    keep(history, "tc-db-01", growing("/srv/soon", per_day=0.9, last=440))
    keep(history, "tc-db-02", growing("/srv/full", per_day=1.0, last=470))
    given = inventory(tmp_path, "[hosts.tc-db-01]\n[hosts.tc-db-02]\n")
    report = disk_report.prepare(given, now=NOW)
    assert [partition.outlook.mountpoint for partition in report.partitions] == ["/srv/full", "/srv/soon", "/srv/calm"]
    first, second, looked_at = report.sentences().text.splitlines()
    assert first.startswith("■ `/srv/full` on tc-db-02 is over its threshold: 94 % used (90 % allowed)")
    assert second.startswith("▲ `/srv/soon` on tc-db-01 will pass 90 % ")
    assert "begin now, " in second
    assert looked_at == (
        "Looked at 3 partitions on 2 hosts: 1 over the threshold, 1 to begin with now and 1 well."
        " As of 23 November 2026 21:00 UTC."
    )
    assert len(report.needed) == 2
    assert report.headline.startswith("`/srv/full` on tc-db-02 is over its threshold")
    assert report.headline.endswith("(and 1 more)")


def test_nobody_needed_is_said_in_one_sentence(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert report.sentences().text.splitlines() == [
        "Nobody is needed today for 1 partition on 1 host.",
        "Looked at 1 partition on 1 host: 1 well. As of 23 November 2026 21:00 UTC.",
    ]
    assert report.needed == ()
    assert report.not_said().text.startswith("Nothing: every selected host was reached")


def test_the_example_says_that_it_is_one(tmp_path: Path, history: SqliteHistory) -> None:
    example_past.write(history, "example-host", now=NOW)
    report = disk_report.prepare(inventory(tmp_path, "[hosts.example-host]\n"), now=NOW)
    lines = report.sentences().text.splitlines()
    assert lines[0].startswith("▲ `/example/db` on example-host will pass 90 % between ")
    assert lines[0].endswith("(example data)")
    assert lines[1].startswith(
        "Looked at 4 partitions on 1 host: 1 to begin with now, 1 to watch, 1 about which nothing"
    )
    assert lines[2] == "! All of this is example data, not measured."
    assert report.table().text.count("example data") == 4


def test_a_host_that_was_not_reached_is_told_with_its_last_numbers(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100, until=NOW - timedelta(days=3)))
    history.record_failure("tc-db-01", NOW - timedelta(hours=2), "unreachable", "no route to host\n  next: look")
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert report.not_said().text == (
        "- tc-db-01: not reached on 23 November 2026 19:00 UTC: no route to host next: look."
        " What stands here rests on numbers of 20 November 2026 20:00 UTC."
    )
    assert "! Not reached or not fresh: tc-db-01; the last part says why." in report.sentences().text
    assert report.headline == "Nobody is needed today for 1 partition on 1 host; 1 host not reached or not fresh"


def test_a_host_never_collected_is_told_beside_the_others(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n[hosts.tc-db-02]\n"), now=NOW)
    assert (
        report.not_said().text
        == "- tc-db-02: never collected, nothing is known of its disks. `runbook collect` reads it."
    )


def test_numbers_of_last_week_are_called_old(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100, until=NOW - timedelta(days=7)))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert "tc-db-01: its newest numbers are 7 days old." in report.not_said().text


def test_a_partition_that_is_gone_is_told_and_not_forecast(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/old", per_day=1, last=480, until=NOW - timedelta(days=9)))
    keep(history, "tc-db-01", growing("/srv/new", per_day=0.01, last=100))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert [partition.outlook.mountpoint for partition in report.partitions] == ["/srv/new"]
    assert "`/srv/old` on tc-db-01: not seen for 9 days, while the host was." in report.not_said().text
    assert report.needed == ()


def test_a_listed_partition_that_was_never_seen_is_told(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/", per_day=0.01, last=100))
    given = inventory(tmp_path, '[hosts.tc-db-01]\n[hosts.tc-db-01.partitions."/srv/bd"]\ndatabase = true\n')
    report = disk_report.prepare(given, now=NOW)
    assert "`/srv/bd` on tc-db-01: listed in the inventory, but never seen on the host." in report.not_said().text


@pytest.mark.parametrize("listed", [False, True])
def test_a_device_that_was_mounted_elsewhere_is_watched_where_it_is_now(
    tmp_path: Path, history: SqliteHistory, listed: bool
) -> None:
    for days in range(90, -1, -1):
        mountpoint = "/data" if days > 30 else "/srv/longer/data"
        keep(
            history,
            "tc-db-01",
            filesystem(mountpoint, 495, time=NOW - timedelta(days=days, minutes=5), device="/dev/sdb1"),
        )
    lists = '[hosts.tc-db-01.partitions."/data"]\n' if listed else ""
    report = disk_report.prepare(inventory(tmp_path, f"[hosts.tc-db-01]\n{lists}"), now=NOW)
    assert [partition.outlook.mountpoint for partition in report.partitions] == ["/srv/longer/data"]
    assert len(report.needed) == 1
    told = report.not_said().text
    if listed:
        assert "`/data` on tc-db-01: not seen for 31 days, while the host was." in told
    else:
        assert "`/data` on tc-db-01 (the same device as `/srv/longer/data`)" in told


def test_settings_of_the_inventory_move_the_threshold(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100))
    given = inventory(
        tmp_path, '[hosts.tc-db-01]\n[hosts.tc-db-01.partitions."/srv/calm"]\nthreshold_ratio = 0.15\ndatabase = true\n'
    )
    report = disk_report.prepare(given, now=NOW)
    assert len(report.needed) == 1
    assert "database" in report.table().text


def test_memory_images_and_second_mounts_are_left_out_and_named(tmp_path: Path, history: SqliteHistory) -> None:
    for mountpoint, fstype, device in (
        ("/", "ext4", "/dev/sda1"),
        ("/etc/hosts", "ext4", "/dev/sda1"),
        ("/run", "tmpfs", "tmpfs"),
        ("/snap/core/1", "squashfs", "/dev/loop0"),
        ("/var/lib/docker/overlay2/x/merged", "overlay", "overlay"),
    ):
        samples = filesystem(mountpoint, 499, time=NOW - timedelta(minutes=5), fstype=fstype, device=device)
        keep(history, "tc-db-01", samples)
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert [partition.outlook.mountpoint for partition in report.partitions] == ["/"]
    assert "`/etc/hosts` on tc-db-01 (the same device as `/`)" in report.not_said().text
    assert "`/run` on tc-db-01 (tmpfs)" in report.not_said().text


def test_a_listed_mount_in_memory_is_looked_at(tmp_path: Path, history: SqliteHistory) -> None:
    keep(
        history,
        "tc-db-01",
        filesystem("/dev/shm", 499, time=NOW - timedelta(minutes=5), fstype="tmpfs", device="tmpfs"),
    )
    given = inventory(tmp_path, '[hosts.tc-db-01]\n[hosts.tc-db-01.partitions."/dev/shm"]\n')
    assert len(disk_report.prepare(given, now=NOW).needed) == 1


def test_hostile_mounts_and_messages_stay_text(tmp_path: Path, history: SqliteHistory) -> None:
    bad = '/srv/<script>alert("1")</script>\n\u202e`x`'
    keep(history, "tc-db-01", growing(bad, per_day=1.0, last=480))
    keep(history, "tc-db-02", growing("/", per_day=0.01, last=4))
    history.record_failure("tc-db-02", NOW - timedelta(hours=1), "refused", "<img src=x onerror=alert(1)>\x1b[2J")
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n[hosts.tc-db-02]\n"), now=NOW)
    pieces = (report.sentences(), report.table(), report.not_said())
    html = "".join(piece.html for piece in pieces)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    for shown in (html, *(piece.text for piece in pieces), report.headline):
        assert "\u202e" not in shown
        assert "\x1b" not in shown


def test_the_listed_partition_stands_before_another_of_the_same_state(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/aaa", per_day=0.01, last=300))
    keep(history, "tc-db-01", growing("/zzz", per_day=0.01, last=100))
    given = inventory(tmp_path, '[hosts.tc-db-01]\n[hosts.tc-db-01.partitions."/zzz"]\n')
    names = [partition.outlook.mountpoint for partition in disk_report.prepare(given, now=NOW).partitions]
    assert names == ["/zzz", "/aaa"]


def test_measured_numbers_stand_before_made_up_ones_of_the_same_state(tmp_path: Path, history: SqliteHistory) -> None:
    example_past.write(history, "example-host", now=NOW)
    keep(history, "tc-db-01", filesystem("/", 3, time=NOW - timedelta(minutes=5)))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.example-host]\n[hosts.tc-db-01]\n"), now=NOW)
    unknown = [entry.outlook.mountpoint for entry in report.partitions if entry.outlook.state == "cannot tell"]
    assert unknown == ["/", "/example/new"]


def test_charts_show_a_picture_with_alternative_text_for_each(
    tmp_path: Path, history: SqliteHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(history, "tc-db-01", growing("/srv/soon", per_day=0.9, last=440))
    keep(history, "tc-db-01", growing("/boot", per_day=0.0, last=100))
    given = inventory(tmp_path, '[hosts.tc-db-01]\n[hosts.tc-db-01.partitions."/srv/soon"]\n')
    shown: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr("IPython.display.display", lambda thing, **how: shown.append((thing, how)))
    disk_report.prepare(given, now=NOW).charts()
    pictures = [(thing, how) for thing, how in shown if isinstance(thing, dict)]
    assert len(pictures) == 1
    metadata = pictures[0][1]["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["image/png"]["alt"].startswith("Chart of bytes used on /srv/soon on tc-db-01")
    assert "without a chart of their own: `/boot` on tc-db-01." in str(shown[-1][0])


def test_the_headline_is_published_with_the_fullest_partition(
    tmp_path: Path, history: SqliteHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(history, "tc-db-01", growing("/srv/soon", per_day=0.9, last=440))
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.0, last=100))
    shown: list[result.Result] = []
    monkeypatch.setattr("IPython.display.display", lambda thing, **_: shown.append(thing))
    disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW).publish()
    (published,) = shown
    assert published.headline.startswith("/srv/soon on tc-db-01 will pass 90 % ")
    assert published.threshold_crossed
    assert published.number == 88.0
    assert published.number_name == "% used of the fullest partition"


def test_a_report_about_nothing_is_a_failure_and_not_well(tmp_path: Path, history: SqliteHistory) -> None:
    history.record_failure("tc-db-01", NOW - timedelta(hours=1), "unreachable", "no route to host")
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert report.sentences().text.startswith("Nothing can be said: ")
    with pytest.raises(RunbookError, match="nothing can be said about tc-db-01"):
        report.publish()


def test_an_empty_history_ends_in_one_clear_message(tmp_path: Path, history: SqliteHistory) -> None:
    history.record_failure("another", NOW, "unreachable", "no route to host")
    with pytest.raises(RunbookError) as caught:
        disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert "has nothing about tc-db-01" in str(caught.value)
    assert "`runbook collect`" in str(caught.value)


def test_no_history_at_all_ends_in_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="there is no history yet"):
        disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)


def test_an_unknown_host_is_a_mistake_of_use(tmp_path: Path, history: SqliteHistory) -> None:  # noqa: ARG001
    with pytest.raises(UsageError, match="no such host: tc-db-09"):
        disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), host="tc-db-09", now=NOW)


def test_an_inventory_without_hosts_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="the inventory has no host"):
        disk_report.prepare(inventory(tmp_path, ""), now=NOW)


def test_empty_names_select_every_host(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/", per_day=0.01, last=100))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), host="", group="", now=NOW)
    assert report.hosts == ("tc-db-01",)


def test_what_is_known_so_far_never_raises(tmp_path: Path, history: SqliteHistory) -> None:
    assert "no such file" in disk_report.known_so_far(tmp_path / "none.toml").text
    given = inventory(tmp_path, "[hosts.tc-db-01]\n")
    assert disk_report.known_so_far(given).text.endswith("names 1 host; there is no history yet: `runbook collect`.")
    history.record_failure("tc-db-01", NOW, "unreachable", "no route to host")
    assert disk_report.known_so_far(given).text.endswith("the history knows no partitions of no hosts.")
    keep(history, "tc-db-01", growing("/", per_day=0.01, last=100, days=3))
    assert disk_report.known_so_far(given).text.endswith("the history knows 1 partition of 1 host.")


def test_a_listed_partition_that_has_vanished_needs_a_person(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/calm", per_day=0.01, last=100))
    text = '[hosts.tc-db-01.partitions."/srv/db"]\ndatabase = true\n'
    report = disk_report.prepare(inventory(tmp_path, text), now=NOW)
    assert "1 listed partition missing: `/srv/db` on tc-db-01" in report.headline
    assert "! Listed in the inventory and not there: `/srv/db` on tc-db-01" in report.sentences().text


def test_when_nobody_is_needed_today_the_next_day_to_begin_is_named(tmp_path: Path, history: SqliteHistory) -> None:
    keep(history, "tc-db-01", growing("/srv/db", per_day=1.0, last=410))
    report = disk_report.prepare(inventory(tmp_path, "[hosts.tc-db-01]\n"), now=NOW)
    assert not report.needed
    assert "Next: `/srv/db` on tc-db-01, begin by" in report.headline
