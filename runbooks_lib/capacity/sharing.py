"""Several partitions on one volume group: who can still be given the space that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """What one partition or pool needs of its volume group, and what is left when its turn comes."""

    name: str
    needed_bytes: float
    left_bytes: float

    @property
    def given(self) -> bool:
        """True when there is enough left for all that it needs: a part of it would only move the day."""
        return self.needed_bytes <= self.left_bytes


def shares(free_bytes: float, needs: Sequence[tuple[str, float]]) -> list[Share]:
    """One Share for each (name, bytes needed), in the order given: who must begin first comes first. Who cannot have
    all gets nothing, and what is left is offered to the next.
    """
    found: list[Share] = []
    for name, needed in needs:
        share = Share(name, needed, free_bytes)
        found.append(share)
        free_bytes -= needed if share.given else 0.0
    return found
