"""From an entry of the inventory to a host on which scripts run."""

from __future__ import annotations

from functools import partial

from runbooks_lib.config import Config, HostEntry
from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import Host
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve


def open_host(entry: HostEntry, config: Config) -> Host:
    """The host of an entry; nothing is connected yet. Raises UsageError for an example, which is never connected to."""
    if entry.example:
        raise UsageError(
            f"{entry.name} is an example with a made-up past, not a host",
            where=str(config.file),
            true_now="nothing was connected to",
            next="choose a host that is not marked example = true",
        )
    if entry.local:
        return LocalHost(entry.name, sudo_password=entry.sudo_password)
    return SshHost(
        entry.name,
        ssh_name=entry.ssh_name,
        sudo_password=entry.sudo_password,
        settings_source=partial(resolve, config_file=config.ssh_config, user=entry.user, port=entry.port),
    )
