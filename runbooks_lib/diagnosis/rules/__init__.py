"""Every rule, in the order in which the questions are asked."""

from __future__ import annotations

from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules import database, disks, host, network, service, space

RULES: tuple[Rule, ...] = (*host.RULES, *space.RULES, *disks.RULES, *network.RULES, *database.RULES, *service.RULES)

__all__ = ["RULES"]
