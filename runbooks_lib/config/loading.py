"""Finding and reading `runbooks.toml`: paths made absolute, defaults filled in, Ansible's hosts taken in."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import ValidationError

from runbooks_lib.config.entries import Config, HostEntry, ServiceSettings, settings_of
from runbooks_lib.config.form import HostTable, InventoryFile
from runbooks_lib.config.mistakes import all_mistakes, mistake, suggestion
from runbooks_lib.config.sections import Defaults, PlanSettings
from runbooks_lib.errors import UsageError

CONFIG_NAME = "runbooks.toml"
CONFIG_ENV = "RUNBOOKS_CONFIG"


def find(given: str | os.PathLike[str] | None = None) -> Path:
    """The config file: the one given, `$RUNBOOKS_CONFIG`, `runbooks.toml` here or in a parent directory, or
    `~/.config/runbooks/runbooks.toml`. Raises UsageError when there is none."""
    if given is not None:
        return _expanded(Path(given))
    if os.environ.get(CONFIG_ENV):
        return _expanded(Path(os.environ[CONFIG_ENV]))
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / CONFIG_NAME).is_file():
            return directory / CONFIG_NAME
    home = Path("~/.config/runbooks").expanduser() / CONFIG_NAME
    if home.is_file():
        return home
    raise UsageError(
        f"no {CONFIG_NAME}",
        where=str(here),
        true_now="no inventory was read and nothing was done",
        next="go to where yours is, or name it: --config FILE, $RUNBOOKS_CONFIG; `runbook init` writes a first one",
    )


def _expanded(path: Path, *, where: str = "") -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"no user has the home directory of {path}", where=where, true_now="nothing was done", next="write it out"
        ) from error


def load(given: str | os.PathLike[str] | None = None) -> Config:
    """Read and check a config file (see `find`). Raises UsageError that lists every mistake: key, found, expected."""
    path = find(given).absolute()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            "no such file", where=str(path), next="`runbook init` writes one, or give --config FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=str(path)) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        raw = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits raises another
        raise UsageError(f"not TOML: {error}", where=str(path), next="mend that line; nothing was done") from error
    try:
        parsed = InventoryFile.model_validate(raw)
    except ValidationError as error:
        raise UsageError(
            all_mistakes(path, error),
            true_now="the file was not used; nothing was done",
            next="docs/inventory.md lists every key",
        ) from error
    return _resolve(path, parsed)


def plan_settings(
    given: PlanSettings, *, risk: float | None = None, price_per_gib: float | None = None
) -> PlanSettings:
    """`given` with what was asked for in its place. Raises UsageError for a risk outside 0..1 or a price of nothing."""
    changed = {"risk": risk, "price_per_gib": price_per_gib}
    values = given.model_dump() | {key: value for key, value in changed.items() if value is not None}
    try:
        return PlanSettings.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(mistake(detail) for detail in error.errors(include_url=False))
        raise UsageError(mistakes, true_now="nothing was planned") from error


def _resolve(path: Path, parsed: InventoryFile) -> Config:
    base = path.parent

    def absolute(value: Path) -> Path:
        return base / _expanded(value, where=str(path))

    history = parsed.history
    if history.url is None:
        history = history.model_copy(update={"path": absolute(history.path or parsed.outputs / "history.sqlite")})
    hosts = {name: _entry(name, host, parsed.defaults) for name, host in parsed.hosts.items()}
    if parsed.ansible is not None:
        hosts = _with_ansible(absolute(parsed.ansible.inventory), hosts, parsed)
    return Config(
        file=path,
        outputs=absolute(parsed.outputs),
        ssh_config=None if parsed.ssh_config is None else absolute(parsed.ssh_config),
        history=history,
        collect=parsed.collect,
        hosts=hosts,
        plan=parsed.plan,
        notify=parsed.notify,
    )


def _entry(name: str, host: HostTable, defaults: Defaults) -> HostEntry:
    partitions = {
        mountpoint: settings_of(mountpoint, partition, defaults) for mountpoint, partition in host.partitions.items()
    }
    return HostEntry(
        name=name,
        ssh_name=host.ssh or name,
        groups=tuple(host.groups),
        local=host.local,
        example=host.example,
        sudo_password=host.sudo_password,
        note=host.note,
        partitions=partitions,
        services=tuple(
            ServiceSettings(
                service_name, service.teamcity or "", service.health or "", service.certificate or "", service.token
            )
            for service_name, service in host.services.items()
        ),
        defaults=defaults,
        lvm=host.lvm,
    )


def _with_ansible(inventory: Path, listed: dict[str, HostEntry], parsed: InventoryFile) -> dict[str, HostEntry]:
    """Ansible's hosts with what `[hosts.NAME]` adds to them; a `[hosts.NAME]` unknown to Ansible is a mistake."""
    # Imported here: only those who name an Ansible inventory pay for its parser.
    from runbooks_lib.ansible_inventory import read_inventory

    hosts: dict[str, HostEntry] = {}
    for found in read_inventory(inventory):
        entry = listed.get(found.name) or _entry(found.name, HostTable(), parsed.defaults)
        asked_ssh = parsed.hosts[found.name].ssh if found.name in parsed.hosts else None
        hosts[found.name] = HostEntry(
            name=found.name,
            ssh_name=asked_ssh or found.ssh_name,
            groups=tuple(dict.fromkeys((*found.groups, *entry.groups))),
            local=entry.local or found.local,
            example=entry.example,
            sudo_password=entry.sudo_password,
            note=entry.note,
            partitions=entry.partitions,
            services=entry.services,
            defaults=parsed.defaults,
            port=found.port,
            user=found.user,
            notes=found.notes,
            lvm=entry.lvm,
        )
    unknown = [name for name in listed if name not in hosts]
    if unknown:
        raise UsageError(
            f"[hosts] names {', '.join(unknown)}, which the Ansible inventory does not have",
            where=str(inventory),
            next=suggestion(unknown[0], hosts, "hosts"),
        )
    return hosts
