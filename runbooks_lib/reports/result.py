"""How a report says what it found: one call in its last cell, `publish("…", threshold_crossed=True)`.

The call shows a display of its own mime type, so that it goes the way of every output: through the masking writer and
into the notebook, where the runner reads it. In JupyterLab the same line shows as text. The last call counts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MIME_TYPE = "application/vnd.runbooks.result+json"
_LONGEST_HEADLINE = 400
_LONGEST_NAME = 60
_MOST_NEEDED = 200


@dataclass(frozen=True)
class Result:
    """What one run found: a headline, whether a threshold is crossed, and one number for the trend in the index.

    `number` is None where there is none today; `number_name` says what it counts ("partitions that need a person").
    `needed` names what needs a person, so that a message is sent when one comes to those that are known.
    """

    headline: str
    threshold_crossed: bool = False
    number: float | None = None
    number_name: str = ""
    needed: tuple[str, ...] = ()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        sign = "▲ threshold crossed: " if self.threshold_crossed else "● "
        return {MIME_TYPE: self.as_json(), "text/plain": f"{sign}{self.headline}"}

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "headline": self.headline,
            "threshold_crossed": self.threshold_crossed,
            "number": self.number,
            "number_name": self.number_name,
            "needed": list(self.needed),
        }


def publish(
    headline: str,
    *,
    threshold_crossed: bool = False,
    number: float | None = None,
    number_name: str = "",
    needed: Iterable[str] = (),
) -> None:
    """Tell the runner what this report found; shows the headline where the cell runs.

    `headline` is one plain line for the list of reports, at most 400 characters. `threshold_crossed` makes the run's
    exit code 3. `number` is what the index draws over the runs; NaN and infinity become None. `needed` are the names
    of what needs a person (at most 200 are kept): a name that was not among them the last time is news.
    """
    from IPython.display import display

    display(_checked(headline, threshold_crossed, number, number_name, needed))  # type: ignore[no-untyped-call]


def read(outputs: Iterable[Mapping[str, Any]]) -> Result | None:
    """The last published result among a notebook's outputs (nbformat 4), or None. A damaged one counts as none."""
    found = None
    for output in outputs:
        data = output.get("data")
        raw = data.get(MIME_TYPE) if isinstance(data, Mapping) else None
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except ValueError:
                continue
        if isinstance(raw, Mapping) and isinstance(raw.get("headline"), str):
            needed = raw.get("needed")
            found = _checked(
                raw["headline"],
                raw.get("threshold_crossed"),
                raw.get("number"),
                str(raw.get("number_name") or ""),
                [str(each) for each in needed] if isinstance(needed, list) else (),
            )
    return found


def _checked(
    headline: str, threshold_crossed: object, number: object, number_name: str, needed: Iterable[str]
) -> Result:
    value = float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None
    return Result(
        headline=_one_line(headline, _LONGEST_HEADLINE),
        threshold_crossed=bool(threshold_crossed),
        number=value if value is not None and math.isfinite(value) else None,
        number_name=_one_line(number_name, _LONGEST_NAME),
        needed=tuple(_one_line(name, _LONGEST_HEADLINE) for name in itertools.islice(needed, _MOST_NEEDED)),
    )


def _one_line(text: str, limit: int) -> str:
    """Remote names end up in headlines: no line ends, no control or direction characters, no endless line."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"
