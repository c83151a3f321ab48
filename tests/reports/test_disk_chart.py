"""The chart of one partition: drawn for every temper and every name, and told in words."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from runbooks_lib.capacity import Outlook, outlook
from runbooks_lib.config import PartitionSettings
from runbooks_lib.history import FilesystemHistory, Series
from runbooks_lib.reports.disk_canvas import make_canvas
from runbooks_lib.reports.disk_chart import alternative_text, draw

NOW = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
GIB = 2.0**30
Floats = npt.NDArray[np.float64]


def a_past(
    used_gib: Floats,
    *,
    size_gib: float | Floats = 500.0,
    mountpoint: str = "/srv/db",
    instance: str = "tc-db-01",
    keep: npt.NDArray[np.bool_] | None = None,
    origins: tuple[str, ...] = ("collected",),
    inodes: Floats | None = None,
) -> FilesystemHistory:
    """One value a day up to today; `keep` leaves days out."""
    count = len(used_gib)
    days = np.arange(np.datetime64("2026-11-24") - count, np.datetime64("2026-11-24"))
    kept = np.ones(count, dtype=bool) if keep is None else keep
    used = np.asarray(used_gib, dtype=np.float64) * GIB
    size = np.broadcast_to(np.asarray(size_gib, dtype=np.float64), (count,)) * GIB
    times = days.astype("datetime64[s]") + np.timedelta64(20, "h")
    labels = {"instance": instance, "mountpoint": mountpoint}
    return FilesystemHistory(
        instance=instance,
        mountpoint=mountpoint,
        device="/dev/sdb1",
        fstype="ext4",
        days=days[kept],
        used_bytes_max=used[kept],
        size_bytes=size[kept],
        reserved_bytes=size[kept] * 0.05,
        inodes_used_max=np.full(count, 1e5)[kept] if inodes is None else inodes[kept],
        inodes_total=np.full(count, 1e7)[kept],
        recent=Series("runbook_filesystem_used_bytes", labels, times[kept][-14:], used[kept][-14:]),
        last_time=NOW - timedelta(hours=1),
        samples=int(kept.sum()),
        origins=origins,
    )


def expected_of(past: FilesystemHistory, **settings: float) -> Outlook:
    return outlook(past, PartitionSettings(past.mountpoint, **settings), now=NOW)  # type: ignore[arg-type]


def pixels(png: bytes) -> npt.NDArray[np.float32]:
    return np.asarray(image.imread(io.BytesIO(png), format="png"), dtype=np.float32)


def _gaps(count: int) -> npt.NDArray[np.bool_]:
    keep = np.ones(count, dtype=bool)
    keep[-90:-70] = False
    keep[-20] = False
    return keep


RANDOM = np.random.default_rng(5)
STEADY = 275 + np.cumsum(RANDOM.gamma(2.0, 0.21, 300))
TEMPERS: dict[str, Callable[[], FilesystemHistory]] = {
    "steady": lambda: a_past(STEADY),
    "over the threshold": lambda: a_past(np.linspace(300, 470, 300)),
    "constant": lambda: a_past(np.full(200, 20.0)),
    "empty": lambda: a_past(np.zeros(200)),
    "one day": lambda: a_past(np.array([33.0])),
    "two days": lambda: a_past(np.array([33.0, 34.0])),
    "forty days": lambda: a_past(STEADY[-40:]),
    "gaps": lambda: a_past(STEADY, keep=_gaps(300)),
    "made larger": lambda: a_past(STEADY, size_gib=np.where(np.arange(300) < 220, 420.0, 600.0)),
    "made smaller": lambda: a_past(STEADY / 4, size_gib=np.where(np.arange(300) < 220, 600.0, 200.0)),
    "size not known": lambda: a_past(STEADY, size_gib=float("nan")),
    "tiny": lambda: a_past(np.linspace(1e-5, 2e-5, 200), size_gib=1e-4),
    "huge": lambda: a_past(STEADY * 1e6, size_gib=5e8),
    "inodes first": lambda: a_past(np.full(300, 50.0), inodes=np.linspace(2e6, 8.6e6, 300)),
    "nothing known": lambda: a_past(np.full(5, np.nan)),
}


@pytest.mark.parametrize("temper", TEMPERS)
@pytest.mark.filterwarnings("error")
def test_every_temper_is_drawn(temper: str) -> None:
    past = TEMPERS[temper]()
    chart = draw(past, expected_of(past), now=NOW)
    assert pixels(chart.png).shape == (700, 1400, 4)
    assert chart.width == 700
    assert len(chart.alt) > 40


@pytest.mark.parametrize(
    "name",
    [
        "/srv/$x^2$",
        "/unpaired $",
        "/\\frac{1}{",
        "/line\nbreak",
        "/\u202egnp.exe",
        "/日本",
        "/" + "x" * 4000,
        "/\udcff",
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_mount_point_can_be_drawn(name: str) -> None:
    past = a_past(STEADY, mountpoint=name, instance=name.strip("/"))
    assert pixels(draw(past, expected_of(past), now=NOW).png).any()


def test_the_ground_is_transparent_so_that_a_dark_page_can_turn_it() -> None:
    past = a_past(STEADY)
    alpha = pixels(draw(past, expected_of(past), now=NOW).png)[..., 3]
    assert alpha[0, 0] == 0
    assert (alpha == 0).mean() > 0.6


def test_example_data_is_labelled_in_the_picture_itself() -> None:
    def corner(origins: tuple[str, ...]) -> float:
        past = a_past(STEADY, origins=origins)
        return float(pixels(draw(past, expected_of(past), now=NOW).png)[:70, 900:, 3].sum())

    assert corner(("collected",)) == 0
    assert corner(("example",)) > 1000
    assert corner(("example", "collected")) > 1000


def test_the_same_numbers_give_the_same_picture() -> None:
    past = a_past(STEADY)
    assert draw(past, expected_of(past), now=NOW) == draw(past, expected_of(past), now=NOW)


def test_the_alternative_text_says_what_the_picture_says() -> None:
    past = a_past(np.linspace(276, 402, 300))
    expected = replace(
        expected_of(past),
        days_to_threshold=(16.0, 27.0, 38.0),
        dates=(date(2026, 12, 9), date(2026, 12, 20), date(2027, 1, 3)),
        start_by=date(2026, 12, 2),
    )
    assert alternative_text(past, expected, now=NOW) == (
        "Chart of bytes used on /srv/db on tc-db-01. From 28 January to today it went from 276 GiB to 402 GiB of"
        " 475 GiB usable. The fan of the forecast passes the threshold of 90 % (428 GiB):"
        " 10 % of the futures by 9 December, 50 % of the futures by 20 December, 90 % of the futures by 3 January 2027."
        " A dotted line marks the day to begin by: 2 December."
    )


def test_the_alternative_text_names_example_data() -> None:
    past = a_past(STEADY, origins=("example",))
    assert "example data, not measured" in alternative_text(past, expected_of(past), now=NOW)


def test_a_past_with_a_value_a_week_has_no_gaps() -> None:
    weekly = np.arange(300) % 7 == 5
    past = a_past(STEADY, keep=weekly)
    whole = a_past(STEADY)
    canvas = [make_canvas(Figure(), Figure().add_subplot(), one, expected_of(one), NOW, 90) for one in (past, whole)]
    assert [one.gap_days for one in canvas] == [7.5, 1.5]


def test_a_past_of_hours_is_drawn_as_a_wedge_without_chances() -> None:
    past = a_past(np.array([21.0, 25.0]), size_gib=40.0)
    times = np.arange(
        np.datetime64("2026-11-23T12:00:00"), np.datetime64("2026-11-23T21:00:00"), np.timedelta64(600, "s")
    )
    values = (20 + np.cumsum(RANDOM.exponential(0.1, len(times)))) * GIB
    young = FilesystemHistory(
        **{**vars(past), "recent": Series(past.recent.name, past.recent.labels, times.astype("datetime64[s]"), values)}
    )
    expected = expected_of(young)
    assert expected.tier == "hours"
    chart = draw(young, expected, now=NOW)
    assert "A wedge shows the rates seen so far going on" in chart.alt
    assert "of the futures" not in chart.alt
