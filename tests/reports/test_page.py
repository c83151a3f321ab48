"""The page: prose and outputs, nothing that runs, nothing from outside, and every picture has words."""

import base64
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks_lib.reports import page
from runbooks_lib.reports.record import CellRun, Failure, Record
from runbooks_lib.reports.sanitize import clean

STARTED = datetime(2026, 11, 23, 22, 10, tzinfo=UTC)
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
).decode()

# What is known to have got past other sanitisers; the marker would show in the browser test.
ATTACKS = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<img src='data:image/png;base64,AAAA' onerror=window.hit=1 onload=window.hit=1>",
    "<svg onload=window.hit=1><script>window.hit=1</script></svg>",
    "<svg><a xlink:href='javascript:window.hit=1'><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
    "<a href='javascript:window.hit=1'>x</a><a href='\x01javascript:window.hit=1'>y</a>",
    "<a href=' java\nscript:window.hit=1'>x</a><a href='data:text/html,<script>window.hit=1</script>'>z</a>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe><object data='javascript:window.hit=1'></object>",
    "<form action='https://evil.example'><button formaction='javascript:window.hit=1'>x</button></form>",
    "<style>body { background: url(https://evil.example/) }</style><link rel=stylesheet href=https://evil.example>",
    "<div style='position:fixed;inset:0;background:url(https://evil.example)'>over everything</div>",
    "<base href='https://evil.example'><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "</div></main></body><script>window.hit=1</script>",
    "<!--><img src=x onerror=window.hit=1>-->",
    "<noscript><p title='</noscript><img src=x onerror=window.hit=1>'></noscript>",
    "<template><img src=x onerror=window.hit=1></template>",
    "<textarea><img src=x onerror=window.hit=1></textarea><title><img src=x onerror=window.hit=1></title>",
    "<xmp><p title='</xmp><img src=x onerror=window.hit=1>'></xmp>",
    "<b title='\"><img src=x onerror=window.hit=1>'>x</b>",
    "<p class='\"><img src=x onerror=window.hit=1>'>x</p>",
    "<IMG SRC=x OnErRoR=window.hit=1><ScRiPt>window.hit=1</sCrIpT>",
    "<script/x>window.hit=1</script ><scr<script>ipt>window.hit=1</script>",
    "<details open ontoggle=window.hit=1><summary>x</summary></details>",
    "<video><source onerror=window.hit=1></video><audio src=x onerror=window.hit=1></audio>",
    "<select><option><img src=x onerror=window.hit=1></select>",
    "<img src='data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+'>",
    "<a href='https://ok.example' onclick=window.hit=1 target=_blank>link</a>",
    "<![CDATA[<script>window.hit=1</script>]]><?php <script>window.hit=1</script> ?>",
    "<div " * 500 + ">" + "<b>" * 3000,
]


class Elements(HTMLParser):
    """Every element and attribute of a page as a parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def record(**fields: Any) -> Record:
    base: dict[str, Any] = {
        "report": "disk-report",
        "run": "20261123T221000Z-abcdef",
        "state": "ok",
        "started": STARTED,
        "ended": STARTED + timedelta(seconds=3.2),
        "title": "Disk report",
        "headline": "Nobody is needed",
    }
    return Record(**{**base, **fields})


def output(**data: Any) -> dict[str, Any]:
    kinds = {
        "html": "text/html",
        "plain": "text/plain",
        "png": "image/png",
        "svg": "image/svg+xml",
        "md": "text/markdown",
    }
    about = data.pop("about", {})
    return {"output_type": "display_data", "metadata": about, "data": {kinds[kind]: it for kind, it in data.items()}}


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def rendered(*cells: dict[str, Any], **fields: Any) -> str:
    return page.render({"cells": list(cells)}, record(**fields))


def test_prose_and_outputs_are_shown_in_order_and_code_is_a_click_away() -> None:
    html = rendered(
        text("# Disk report\n\n**What this is for.** Disks."),
        code("days: int = 3", tags=("parameters",)),
        code("import numpy as np"),
        text("## All partitions\n\nWorst *first*."),
        code("report.table()", output(html="<table><tr><td class='number'>1 GiB</td></tr></table>")),
        parameters={"host": "007"},
        defaults={"days": 3},
    )
    assert html.index("All partitions") < html.index("1 GiB") < html.index("About this report")
    assert "<h2>All partitions</h2>" in html
    assert "<em>first</em>" in html
    assert '<td class="number">' in html
    assert html.count("<h1>") == 1
    assert html.count('<details class="code">') == 1  # code without outputs stands with the next that has some
    assert re.sub(r"<[^>]+>", "", html).count("report.table()") == 1
    assert "host = 007" in html
    assert "days = 3" in html


def test_the_headline_stands_at_the_top_unless_the_page_says_it_already() -> None:
    assert '<p class="lede">Nobody is needed</p>' in rendered(code("report()", output(plain="a table")))
    assert 'class="lede"' not in rendered(code("report()", output(html="<p>Nobody is <b>needed</b>.</p>")))


def test_a_page_is_whole_in_itself_and_says_so_to_the_browser() -> None:
    html = rendered(code("x", output(png=PIXEL, about={"image/png": {"alt": "a pixel", "width": 300}})))
    assert "default-src 'none'" in html
    for tag, attributes in Elements(html).found:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert (attributes["alt"], attributes["width"]) == ("a pixel", "300")
    tags = [tag for tag, _ in Elements(html).found]
    assert {"main", "header", "footer", "nav", "h1"} <= set(tags)
    assert '<html lang="en">' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_every_picture_has_words_and_a_damaged_one_is_told() -> None:
    html = rendered(
        code("x", output(png=PIXEL)),
        code("x", output(png=PIXEL, plain="a chart of /srv/db")),
        code("x", output(png="***")),
        code("x", output(svg="<svg onload='window.hit=1'><script>window.hit=1</script></svg>")),
    )
    pictures = [attributes for tag, attributes in Elements(html).found if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [
        "A picture that its author has not described",
        "a chart of /srv/db",
        "A picture that its author has not described",
    ]
    assert "damaged image/png" in html
    assert pictures[2]["src"].startswith("data:image/svg+xml;base64,")
    assert "window.hit" not in html


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_output_carries_cannot_run_load_or_leave_its_place(attack: str) -> None:
    for html in (clean(attack), rendered(code("x", output(html=attack)), code("y", output(md=attack)), text(attack))):
        for tag, attributes in Elements(html).found:
            assert tag not in ("script", "iframe", "object", "embed", "base", "link", "form", "svg", "math", "video")
            assert not any(name.startswith("on") or name in ("style", "srcset", "target") for name in attributes)
            assert re.match(r"(https?:|mailto:|#|\.\./\.\./index\.html|report\.ipynb|log\.txt|run\.json|$)",
                            attributes.get("href", ""))  # fmt: skip
            assert re.match(r"(data:image/(png|jpeg|gif|webp);base64,|$)", attributes.get("src", ""))
    assert clean(clean(attack)) == clean(attack)


def test_an_output_cannot_close_the_page_s_own_elements() -> None:
    html = clean("</div></main><b>bold")
    assert html == "<b>bold</b>"


@given(st.text(alphabet="<>/ab\"'= &;!-x\n", max_size=200))
def test_what_comes_out_is_balanced_whatever_comes_in(html: str) -> None:
    out = clean(html)
    assert clean(out) == out
    opened: list[str] = []
    for close, tag in re.findall(r"<(/?)([a-z0-9]+)[^>]*>", out):
        if close:
            assert opened.pop() == tag
        elif tag not in ("br", "hr", "img", "col", "wbr"):
            opened.append(tag)
    assert opened == []


def test_names_from_hosts_stay_text_everywhere() -> None:
    hostile = "</title></style><script>window.hit=1</script>\u202e\x1b[31m"
    html = rendered(
        code("raise", {"output_type": "error", "ename": hostile, "evalue": hostile, "traceback": [hostile]}),
        code("x", {"output_type": "stream", "name": "stdout", "text": hostile}, output(plain=hostile)),
        code(f"x = '''{hostile}'''", output(plain="shown")),
        state="failed",
        title=hostile,
        headline=hostile,
        message=hostile,
        parameters={hostile: hostile},
        user=hostile,
        source=hostile,
        notes=(hostile,),
        versions={hostile: hostile},
        failure=Failure(hostile, hostile, 1),
    )
    assert "<script" not in html
    assert "\x1b" not in html
    assert html.count("</style>") == html.count("</title>") == 1


def test_a_failed_run_says_so_first_with_the_traceback_a_click_away() -> None:
    error = {"output_type": "error", "ename": "E", "evalue": "x", "traceback": ["\x1b[31mTraceback\x1b[0m of it"]}
    html = rendered(
        code("print(1)", {"output_type": "stream", "name": "stdout", "text": "known before\n"}),
        code("boom()", error),
        state="timed out",
        message="It was stopped at its deadline of 4 seconds (code cell 2 of 2)",
        cells=(CellRun(0, "ok", 0.1), CellRun(1, "stopped", 4.0)),
    )
    assert html.index("It was stopped at its deadline") < html.index("known before")
    assert "Traceback of it" in html
    assert "1 of 2 ran to their end" in html
    assert "timed out" in html


def test_terminal_text_is_shown_as_it_would_have_been_left() -> None:
    assert page.without_colours("\x1b[1mbold\x1b[0m 10%\r 50%\r100%\r\nnext\x1b]0;title\x07") == "100%\nnext"


def test_long_text_keeps_both_ends() -> None:
    html = rendered(code("x", {"output_type": "stream", "name": "stdout", "text": "a" * 300_000 + "the end"}))
    assert len(html) < 260_000
    assert "the end" in html
    assert "100,007 characters are in the notebook only" in html


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.44, "0.4 s"), (12.3, "12 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_said_in_words(seconds: float | None, words: str) -> None:
    assert page.span(seconds) == words


def test_colours_of_text_have_enough_contrast_in_light_and_dark() -> None:
    css = (page.TEMPLATES / "base.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for ground in ("ground", "paper", "soft"):
            for ink in ("ink", "quiet", "link", "crossed", "act", "watch", "ok", "unknown", "failed"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for state in ("crossed", "act", "watch", "ok", "unknown", "failed"):
            assert _contrast(colours[state], colours[f"{state}-soft"]) >= 4.5, state
            assert _contrast(colours["ink"], colours[f"{state}-soft"]) >= 4.5, state


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.lab
def test_no_attack_does_anything_in_a_real_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "chromium is missing: install the package chromium"
    cells = [code("x", output(html=attack)) for attack in ATTACKS] + [text(attack) for attack in ATTACKS]
    html = rendered(*cells, title="</title><script>window.hit=1</script>")
    # Without the page's own policy: the sanitiser must be enough alone. The probe comes after everything else.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    probe = "<script>setTimeout(function () { document.title = 'hit=' + window.hit }, 300)</script>"
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", probe + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    assert "<title>hit=undefined</title>" in shown
    assert shown.count("<footer>") == 1
