"""HTML that outputs carry, made harmless: rebuilt from an allow-list, never repaired.

The input is only read as a stream of tags and texts; what comes out is written here: listed tags, listed attributes,
every value and every text escaped, everything opened closed again. So nothing depends on how a browser would have read
the input. Scripts, styles, foreign content (SVG, MathML), forms and frames are left out with what is in them.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

_TAGS = frozenset(
    {"a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "col", "colgroup", "dd", "del", "details", "dfn"}
    | {"div", "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins"}
    | {"kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "section", "small", "span", "strong", "sub", "summary"}
    | {"sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "tr", "u", "ul", "var", "wbr"}
)
_EMPTY = frozenset({"br", "col", "hr", "img", "wbr"})
_WITH_CONTENT_LEFT_OUT = frozenset(
    {"script", "style", "template", "iframe", "object", "noscript", "svg", "math", "textarea", "select", "title"}
    | {"xmp", "plaintext", "noembed", "noframes", "head", "audio", "video", "canvas", "applet", "frameset"}
)
_ATTRIBUTES: dict[str, frozenset[str]] = {
    "*": frozenset({"class", "title", "lang", "aria-label", "aria-hidden"}),
    "a": frozenset({"href"}),
    "img": frozenset({"src", "alt", "width", "height"}),
    "td": frozenset({"colspan", "rowspan", "headers"}),
    "th": frozenset({"colspan", "rowspan", "headers", "scope"}),
    "col": frozenset({"span"}),
    "colgroup": frozenset({"span"}),
    "ol": frozenset({"start", "reversed"}),
    "li": frozenset({"value"}),
    "details": frozenset({"open"}),
    "time": frozenset({"datetime"}),
}
_LINK = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x20]+", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")
_DEEPEST = 100


def clean(html: str) -> str:
    """The HTML fragment with nothing in it that runs, loads, submits, or reaches outside its own place."""
    parser = _Rebuilder()
    parser.feed(html)
    parser.close()
    return parser.finished()


class _Rebuilder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._open: list[str] = []
        self._left_out: list[str] = []  # the open elements whose content is left out

    def finished(self) -> str:
        return "".join([*self._parts, *(f"</{tag}>" for tag in reversed(self._open))])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _WITH_CONTENT_LEFT_OUT:
            self._left_out.append(tag)
        elif tag in _TAGS and not self._left_out and len(self._open) < _DEEPEST:
            written = "".join(_attribute(tag, name, value) for name, value in _first_of_each(attrs))
            if tag == "a":
                written += ' rel="noopener noreferrer"'
            if tag == "img" and " src=" not in written:
                return
            self._parts.append(f"<{tag}{written}>")
            if tag not in _EMPTY:
                self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # <div/> opens a div for a browser, and so it does here.
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._left_out:
            if tag in self._left_out:
                while self._left_out.pop() != tag:
                    pass
        elif tag in self._open:
            while True:
                closed = self._open.pop()
                self._parts.append(f"</{closed}>")
                if closed == tag:
                    return

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self._parts.append(escape(data, quote=False))


def _first_of_each(attributes: list[tuple[str, str | None]]) -> list[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name, value in attributes:
        seen.setdefault(name, value or "")
    return list(seen.items())


def _attribute(tag: str, name: str, value: str) -> str:
    if name not in _ATTRIBUTES["*"] and name not in _ATTRIBUTES.get(tag, ()):
        return ""
    if name == "href" and not _LINK.fullmatch(value.strip()):
        return ""
    if name == "src" and not _PICTURE.fullmatch(value):
        return ""
    if name == "class":
        value = " ".join(re.findall(r"[A-Za-z][\w-]*", value))
    return f' {name}="{escape(value.strip())}"'
