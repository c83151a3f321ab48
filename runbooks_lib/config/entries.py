"""The inventory as the rest of the house reads it: hosts with their partitions and services, defaults filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeVar

from runbooks_lib.config.channels import Notify
from runbooks_lib.config.form import PartitionTable
from runbooks_lib.config.mistakes import suggestion
from runbooks_lib.config.sections import CollectSettings, Defaults, HistorySettings, LeadTime, PlanSettings
from runbooks_lib.errors import UsageError

_T = TypeVar("_T")
_LEAD_TIME_DAYS = 14


@dataclass(frozen=True)
class Calendar:
    """The days on which work can begin: the week's (`Mon` … `Sun`) without the holidays."""

    working_week: tuple[str, ...] = ("Mon", "Tue", "Wed", "Thu", "Fri")
    holidays: tuple[date, ...] = ()


@dataclass(frozen=True)
class PartitionSettings:
    """One partition as the inventory wants it watched."""

    mountpoint: str
    database: bool = False
    threshold_ratio: float = 0.9  # of what df calls Use%: used / (used + available)
    lead_time_days: int = 14  # from "we should do something" to "it is done": approval, disk order, window
    listed: bool = True  # False when the inventory does not name it and the defaults speak
    lead_time_working_days: int | None = None  # in place of lead_time_days, where it is given
    calendar: Calendar = Calendar()


@dataclass(frozen=True)
class ServiceSettings:
    """One service of a host, asked by `runbook triage` from this machine: addresses are empty where it is not asked."""

    name: str
    teamcity: str = ""  # TeamCity's own address; its REST interface lies under it
    health: str = ""  # an address that answers below 400 when the service is well
    certificate: str = ""  # host:port that speaks TLS; an https address above needs no mention here
    token: str | None = None  # a reference, sent only to teamcity


@dataclass(frozen=True)
class HostEntry:
    """One host of the inventory."""

    name: str
    ssh_name: str
    groups: tuple[str, ...] = ()
    local: bool = False  # this machine itself, without SSH
    example: bool = False  # its past is made up (the demo); it is never connected to
    sudo_password: str | None = None  # a reference
    note: str = ""
    partitions: Mapping[str, PartitionSettings] = field(default_factory=dict)
    services: tuple[ServiceSettings, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    port: int | None = None  # set only where an Ansible inventory says so
    user: str | None = None
    notes: tuple[str, ...] = ()  # what an Ansible inventory says about the connection and is not followed
    lvm: bool = False  # read LVM too, as root: thin pools, and what volume groups still have to give

    def partition(self, mountpoint: str) -> PartitionSettings:
        """The settings of one mount point; the defaults for one that is not listed."""
        listed = self.partitions.get(mountpoint)
        if listed is not None:
            return listed
        return settings_of(mountpoint, PartitionTable(), self.defaults, listed=False)


@dataclass(frozen=True)
class Config:
    """A checked `runbooks.toml`; every path in it is absolute."""

    file: Path
    outputs: Path
    ssh_config: Path | None
    history: HistorySettings
    collect: CollectSettings
    hosts: Mapping[str, HostEntry]
    plan: PlanSettings = field(default_factory=PlanSettings)
    notify: Notify = field(default_factory=Notify)

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group that a host names, sorted."""
        return tuple(sorted({group for entry in self.hosts.values() for group in entry.groups}))

    def select(self, host: str | Iterable[str] | None = None, group: str | None = None) -> list[HostEntry]:
        """The named host(s), the hosts of a group, or all. UsageError for an unknown name."""
        if host is not None and group is not None:
            raise UsageError(
                "host and group were both given", where=str(self.file), next="name a host or a group, not both"
            )
        if host is not None:
            names = [host] if isinstance(host, str) else list(host)
            unknown = [name for name in names if name not in self.hosts]
            if unknown:
                raise UsageError(
                    f"no such host: {', '.join(unknown)}",
                    where=str(self.file),
                    next=suggestion(unknown[0], self.hosts, "hosts"),
                )
            return [self.hosts[name] for name in dict.fromkeys(names)]
        if group is not None:
            chosen = [entry for entry in self.hosts.values() if group in entry.groups]
            if not chosen:
                raise UsageError(
                    f"no such group: {group}", where=str(self.file), next=suggestion(group, self.groups, "groups")
                )
            return chosen
        return list(self.hosts.values())


def settings_of(
    mountpoint: str, partition: PartitionTable, defaults: Defaults, *, listed: bool = True
) -> PartitionSettings:
    """A partition's own values, and the defaults where it has none."""
    own = partition.lead_time_days is not None or partition.lead_time_working_days is not None
    lead: LeadTime = partition if own else defaults
    return PartitionSettings(
        mountpoint,
        database=partition.database,
        threshold_ratio=_or(partition.threshold_ratio, defaults.threshold_ratio),
        lead_time_days=_or(lead.lead_time_days, _LEAD_TIME_DAYS),
        listed=listed,
        lead_time_working_days=lead.lead_time_working_days,
        calendar=Calendar(tuple(defaults.working_week), tuple(defaults.holidays)),
    )


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
