"""HTML that outputs carry, made harmless: what runs, loads, submits or reaches outside its own place is left out.

The work is nh3's (ammonia), which reads the text by the rules by which a browser reads it (html5ever). Here stands only
what is allowed.
"""

from __future__ import annotations

import re

import nh3

_TAGS = frozenset(
    {"a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "col", "colgroup", "dd", "del", "details", "dfn"}
    | {"div", "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins"}
    | {"kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "section", "small", "span", "strong", "sub", "summary"}
    | {"sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "tr", "u", "ul", "var", "wbr"}
)
_WITH_CONTENT_LEFT_OUT = frozenset(
    {"script", "style", "template", "iframe", "object", "noscript", "svg", "math", "textarea", "select", "title"}
    | {"xmp", "plaintext", "noembed", "noframes", "audio", "video", "canvas", "applet", "frameset"}
)
_ATTRIBUTES = {
    "*": {"class", "title", "lang", "aria-label", "aria-hidden"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan", "headers"},
    "th": {"colspan", "rowspan", "headers", "scope"},
    "col": {"span"},
    "colgroup": {"span"},
    "ol": {"start", "reversed"},
    "li": {"value"},
    "details": {"open"},
    "time": {"datetime"},
}
_LINK = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x20]+", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")


def clean(html: str) -> str:
    """The HTML fragment with listed tags and attributes only; links lead to web pages or mail, pictures are inside."""
    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_WITH_CONTENT_LEFT_OUT),
        attributes=_ATTRIBUTES,
        attribute_filter=_allowed,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
        strip_comments=True,
    )


def _allowed(_tag: str, name: str, value: str) -> str | None:
    if name == "href" and not _LINK.fullmatch(value.strip()):
        return None
    if name == "src" and not _PICTURE.fullmatch(value):
        return None
    if name == "class":
        return " ".join(re.findall(r"[A-Za-z][\w-]*", value))
    return value
