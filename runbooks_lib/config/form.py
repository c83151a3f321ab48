"""The form of `runbooks.toml` as it is written: hosts, their partitions and services, and the file as a whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator

from runbooks_lib.config.channels import Notify
from runbooks_lib.config.sections import (
    AnsibleSettings,
    CollectSettings,
    Defaults,
    HistorySettings,
    LeadTime,
    PlanSettings,
)
from runbooks_lib.config.values import (
    FilePath,
    Mountpoint,
    Name,
    Ratio,
    SecretReference,
    Section,
    TlsAddress,
    WebAddress,
)


class PartitionTable(LeadTime):
    """`[hosts.NAME.partitions."/mount"]`."""

    database: bool = False
    threshold_ratio: Ratio | None = None


class ServiceTable(Section):
    """`[hosts.NAME.services.NAME]`."""

    teamcity: WebAddress | None = None
    health: WebAddress | None = None
    certificate: TlsAddress | None = None
    token: SecretReference | None = None

    @model_validator(mode="after")
    def _something_to_ask(self) -> Self:
        if self.teamcity is None and self.health is None and self.certificate is None:
            raise ValueError("something to ask: teamcity, health or certificate")
        if self.token is not None:
            if self.teamcity is None:
                raise ValueError("teamcity beside the token: it is sent to nobody else")
            if not re.match(r"https://|http://(localhost|127\.[0-9.]+|\[::1\])(:|/|$)", self.teamcity):
                raise ValueError("https for teamcity: the token would go over the network unencrypted")
        return self


class HostTable(Section):
    """`[hosts.NAME]`."""

    groups: list[Name] = Field(default_factory=list)
    ssh: Name | None = None
    local: bool = False
    example: bool = False
    lvm: bool = False
    sudo_password: SecretReference | None = None
    note: str = ""
    partitions: dict[Mountpoint, PartitionTable] = Field(default_factory=dict)
    services: dict[Name, ServiceTable] = Field(default_factory=dict)


class InventoryFile(Section):
    """The whole file."""

    outputs: FilePath = Path("outputs")
    ssh_config: FilePath | None = None
    defaults: Defaults = Field(default_factory=Defaults)
    history: HistorySettings = Field(default_factory=HistorySettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    plan: PlanSettings = Field(default_factory=PlanSettings)
    ansible: AnsibleSettings | None = None
    notify: Notify = Field(default_factory=Notify)
    hosts: dict[Name, HostTable] = Field(default_factory=dict)


# The tables that stand at the top of the file once, by their key.
TABLES: dict[str, type[BaseModel]] = {
    "defaults": Defaults,
    "history": HistorySettings,
    "collect": CollectSettings,
    "plan": PlanSettings,
    "ansible": AnsibleSettings,
    "notify": Notify,
}
