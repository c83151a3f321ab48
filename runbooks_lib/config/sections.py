"""The tables of `runbooks.toml` that say how this machine works: defaults, plan, history, collecting, Ansible."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from runbooks_lib.config.values import (
    Amount,
    Days,
    FilePath,
    Name,
    Ratio,
    SecretReference,
    Section,
    WebAddress,
    Weekday,
)

_WORKING_WEEK: tuple[Weekday, ...] = ("Mon", "Tue", "Wed", "Thu", "Fri")


class LeadTime(Section):
    """Days of the calendar, or working days: one of them, or neither."""

    lead_time_days: Days | None = None
    lead_time_working_days: Days | None = None

    @model_validator(mode="after")
    def _one_lead_time(self) -> Self:
        if self.lead_time_days is not None and self.lead_time_working_days is not None:
            raise ValueError("either lead_time_days or lead_time_working_days, not both")
        return self


class Defaults(LeadTime):
    """`[defaults]`: what a partition has when it says nothing itself, and the days on which work can begin."""

    threshold_ratio: Ratio = 0.9
    working_week: Annotated[list[Weekday], Field(min_length=1)] = Field(default_factory=lambda: list(_WORKING_WEEK))
    holidays: list[date] = Field(default_factory=list)


class PlanSettings(Section):
    """`[plan]`: the risk of a full disk that is accepted, for how long to buy, and what space costs."""

    risk: Annotated[float, Field(gt=0, lt=1)] = 0.05
    days: Annotated[int, Field(ge=7, le=1825)] = 365
    amounts_gib: list[Amount] = Field(default_factory=lambda: [10.0, 50.0, 100.0])
    price_per_gib: Amount | None = None
    currency: str = ""  # "EUR", or "EUR a month" where space is rented


class HistorySettings(Section):
    """`[history]`: a SQLite file of our own, or a Prometheus-compatible server. Not both."""

    path: FilePath | None = None
    url: WebAddress | None = None
    instance_label: Name = "instance"
    user: str | None = None
    password: SecretReference | None = None
    token: SecretReference | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.path is not None and self.url is not None:
            raise ValueError("either path (a SQLite file) or url (a Prometheus-compatible server), not both")
        if self.url is None and (self.user or self.password or self.token):
            raise ValueError("user, password and token belong to a url")
        return self


class CollectSettings(Section):
    """`[collect]`: how many hosts at once, and how long one may take."""

    workers: Annotated[int, Field(ge=1, le=512)] = 128
    deadline_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0


class AnsibleSettings(Section):
    """`[ansible]`: hosts and groups come from an Ansible inventory (INI or YAML) instead of from here."""

    inventory: FilePath
