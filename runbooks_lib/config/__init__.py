"""`runbooks.toml`: which hosts, which partitions matter, where the past is kept; every mistake told at once."""

from runbooks_lib.config.channels import Alertmanager, Channel, Notify
from runbooks_lib.config.entries import Calendar, Config, HostEntry, PartitionSettings, ServiceSettings
from runbooks_lib.config.loading import CONFIG_ENV, CONFIG_NAME, find, load, plan_settings
from runbooks_lib.config.sections import AnsibleSettings, CollectSettings, Defaults, HistorySettings, PlanSettings
from runbooks_lib.config.values import (
    Amount,
    Days,
    FilePath,
    Mountpoint,
    Name,
    Ratio,
    SecretReference,
    WebAddress,
    Weekday,
)

__all__ = [
    "CONFIG_ENV",
    "CONFIG_NAME",
    "Alertmanager",
    "Amount",
    "AnsibleSettings",
    "Calendar",
    "Channel",
    "CollectSettings",
    "Config",
    "Days",
    "Defaults",
    "FilePath",
    "HistorySettings",
    "HostEntry",
    "Mountpoint",
    "Name",
    "Notify",
    "PartitionSettings",
    "PlanSettings",
    "Ratio",
    "SecretReference",
    "ServiceSettings",
    "WebAddress",
    "Weekday",
    "find",
    "load",
    "plan_settings",
]
