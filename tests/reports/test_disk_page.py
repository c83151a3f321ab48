"""The pieces of the capacity report as HTML and as text, with hostile names in them."""

from dataclasses import replace
from html.parser import HTMLParser

from runbooks_lib.reports import disk_page
from runbooks_lib.reports.disk_page import Row, Unsaid

ROW = Row(
    state="act",
    mountpoint="/srv/db",
    instance="tc-db-01",
    mark="database",
    used="87 % of 475 GiB",
    between="9 Dec to 31 Dec",
    full_30_days="42 %",
    begin_by="2 Dec",
    sentence="`/srv/db` on tc-db-01 will pass 90 % between 9 and 31 December (80 %); begin by 2 December",
    dates_of="Passes 90 %",
    dates=(("10 %", "by 9 December"), ("50 %", "by 20 December"), ("90 %", "by 31 December")),
    chances=(("within 7 days", "4 %"), ("within 30 days", "42 %")),
    buys=(("10 GiB", "23 days"), ("100 GiB", "until then")),
    notes=("365 days of history (collected); /dev/sdb1, ext4.",),
)
HOSTILE = '/srv/<script>alert("1")</script>&amp;`x`'
BAD = replace(
    ROW, mountpoint=HOSTILE, instance="<img src=x onerror=alert(1)>", sentence=f"`{HOSTILE}` is bad", notes=(HOSTILE,)
)


class _Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def _everything(row: Row) -> str:
    pieces = [
        disk_page.sentences([row], calm="", looked_at=row.mountpoint, warnings=[row.instance]),
        disk_page.table([row]),
        disk_page.opening(row),
        disk_page.closing(row),
        disk_page.unsaid([Unsaid(row.mountpoint, row.instance, row.sentence)], left_out=[row.mountpoint]),
        disk_page.paragraph(row.mountpoint),
    ]
    return "\n".join(piece.html for piece in pieces)


def test_hostile_names_and_messages_stay_text() -> None:
    good, bad = _Tags(_everything(ROW)), _Tags(_everything(BAD))
    assert bad.tags == good.tags
    assert bad.attributes == good.attributes
    assert '<script>alert("1")</script>&amp;' in bad.text


def test_a_state_is_told_by_a_word_and_a_sign_not_by_colour_alone() -> None:
    html, text = disk_page.table([ROW]).html, disk_page.table([ROW]).text
    for said in (html, text):
        assert "▲" in said
        assert "begin now" in said


def test_a_terminal_reads_the_same_as_the_page() -> None:
    piece = disk_page.sentences([ROW], calm="calm", looked_at="Looked at 1 partition.", warnings=["One is late."])
    assert str(piece) == (
        "▲ `/srv/db` on tc-db-01 will pass 90 % between 9 and 31 December (80 %); begin by 2 December (database)\n"
        "Looked at 1 partition.\n"
        "! One is late."
    )
    head, row = disk_page.table([ROW]).text.splitlines()
    assert head.split("  ")[0] == "State"
    assert row.startswith("▲ begin now  /srv/db on tc-db-01 (database)  87 % of 475 GiB  9 Dec to 31 Dec")
    assert head.index("Begin by") == row.index("2 Dec")


def test_nobody_needed_is_one_sentence() -> None:
    piece = disk_page.sentences([], calm="Nobody is needed.", looked_at="Looked at 3.", warnings=[])
    assert str(piece) == "Nobody is needed.\nLooked at 3."
    assert "<li" not in piece.html


def test_a_partition_without_forecast_has_no_empty_table() -> None:
    piece = disk_page.closing(replace(ROW, dates=(), chances=(), buys=()))
    assert "<table" not in piece.html


def test_a_number_stays_on_one_line_with_its_unit_and_its_month() -> None:
    html = disk_page.table([ROW]).html
    assert "87\u00a0% of 475\u00a0GiB" in html
    assert "9\u00a0Dec to 31\u00a0Dec" in html
    assert "\u00a0" not in disk_page.table([ROW]).text


def test_a_name_is_shown_as_it_must_be_typed() -> None:
    html = disk_page.paragraph("`/srv/9 May` holds 9 GiB").html
    assert "<code>/srv/9 May</code> holds 9\u00a0GiB" in html


def test_nothing_unsaid_is_said() -> None:
    assert "every selected host was reached" in disk_page.unsaid([]).text


def test_the_heading_cells_of_tables_say_what_they_head() -> None:
    assert 'scope="col"' in disk_page.table([ROW]).html
    assert 'scope="row"' in disk_page.closing(ROW).html


def test_a_notebook_shows_html_and_a_terminal_text() -> None:
    bundle = disk_page.paragraph("plain").__getattribute__("_repr_mimebundle_")()
    assert set(bundle) == {"text/html", "text/plain"}
