"""`runbooks.toml`: which hosts, which partitions matter, where the past is kept; every mistake told at once."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from runbooks_lib.errors import UsageError

_T = TypeVar("_T")

CONFIG_NAME = "runbooks.toml"
_LEAD_TIME_DAYS = 14
CONFIG_ENV = "RUNBOOKS_CONFIG"


def _clean_name(value: str) -> str:
    """Names are typed in shells and shown in tables: no spaces, no control characters, no leading dash."""
    if not value or value.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ValueError("a name without spaces that does not begin with a dash")
    return value


def _mountpoint(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError('an absolute mount point such as "/srv/db"')
    return value if value == "/" else value.rstrip("/")


def _secret_reference(value: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", value):
        # The value itself is never repeated: it may be the secret that should not have been here.
        raise ValueError('a reference, "env:NAME" or "file:/path", never the secret itself')
    return value


Name = Annotated[str, AfterValidator(_clean_name)]
Mountpoint = Annotated[str, AfterValidator(_mountpoint)]
SecretReference = Annotated[str, AfterValidator(_secret_reference)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Days = Annotated[int, Field(ge=0, le=3650)]
Amount = Annotated[float, Field(strict=False, gt=0, le=1e9)]
Weekday = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def _path(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("a path without a NUL character")
    return value


FilePath = Annotated[Path, Field(strict=False), AfterValidator(_path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _LeadTime(_Section):
    lead_time_days: Days | None = None
    lead_time_working_days: Days | None = None

    @model_validator(mode="after")
    def _one_lead_time(self) -> Self:
        if self.lead_time_days is not None and self.lead_time_working_days is not None:
            raise ValueError("either lead_time_days or lead_time_working_days, not both")
        return self


class Defaults(_LeadTime):
    """`[defaults]`: what a partition has when it says nothing itself, and the days on which work can begin."""

    threshold_ratio: Ratio = 0.9
    working_week: Annotated[list[Weekday], Field(min_length=1)] = ["Mon", "Tue", "Wed", "Thu", "Fri"]
    holidays: list[date] = Field(default_factory=list)


class PlanSettings(_Section):
    """`[plan]`: the risk of a full disk that is accepted, for how long to buy, and what space costs."""

    risk: Annotated[float, Field(gt=0, lt=1)] = 0.05
    days: Annotated[int, Field(ge=7, le=1825)] = 365
    amounts_gib: list[Amount] = [10.0, 50.0, 100.0]
    price_per_gib: Amount | None = None
    currency: str = ""  # "EUR", or "EUR a month" where space is rented


class HistorySettings(_Section):
    """`[history]`: a SQLite file of our own, or a Prometheus-compatible server. Not both."""

    path: FilePath | None = None
    url: str | None = Field(None, pattern=r"^https?://")
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


class CollectSettings(_Section):
    """`[collect]`: how many hosts at once, and how long one may take."""

    workers: Annotated[int, Field(ge=1, le=512)] = 128
    deadline_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0


class AnsibleSettings(_Section):
    """`[ansible]`: hosts and groups come from an Ansible inventory (INI or YAML) instead of from here."""

    inventory: FilePath


class Channel(_Section):
    """`[notify.channels.NAME]`: where a message goes: a webhook, a mail server, or anything that apprise knows."""

    kind: Literal["webhook", "mail", "apprise"]
    url: str | None = None  # an address, or a reference to one: many webhooks' addresses are secrets themselves
    token: SecretReference | None = None
    body: Literal["full", "text"] = "full"
    server: Name | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password: SecretReference | None = None
    sender: str | None = None
    to: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        mine = {
            "webhook": {"url", "token", "body"},
            "mail": {"server", "port", "tls", "user", "password", "sender", "to"},
            "apprise": {"url"},
        }[self.kind]
        foreign = sorted(self.model_fields_set - mine - {"kind"})
        if foreign:
            raise ValueError(f"only {', '.join(sorted(mine))} beside kind = {self.kind!r}, not {', '.join(foreign)}")
        if self.kind == "webhook" and not re.match(r"https?://|env:|file:", self.url or ""):
            raise ValueError('url = "https://…", or a reference to it: "env:NAME", "file:/path"')
        if self.kind == "apprise" and not re.match(r"env:|file:", self.url or ""):
            raise ValueError('url as a reference, "env:NAME" or "file:/path": such addresses hold passwords')
        if self.kind == "mail":
            addresses = [self.sender or "", *self.to]
            if not self.server or not self.to or any(not re.fullmatch(r"[^@\s]+@[^@\s]+", each) for each in addresses):
                raise ValueError('server = "mail.example.org", sender = "a@example.org" and to = ["b@example.org"]')
            if (self.user is None) != (self.password is None):
                raise ValueError("user and password together, or neither")
        return self


class Alertmanager(_Section):
    """`[notify.alertmanager]`: where alerts of a host are silenced while work on it is under way."""

    url: str = Field(pattern=r"^https?://")
    user: str | None = None
    password: SecretReference | None = None
    token: SecretReference | None = None
    instance_label: Name = "instance"


class Notify(_Section):
    """`[notify]`: who is told. `pages`: the address under which others open what lies under `outputs`."""

    pages: str | None = Field(None, pattern=r"^https?://")
    channels: dict[Name, Channel] = Field(default_factory=dict)
    alertmanager: Alertmanager | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """Every secret's reference in it."""
        logins = [each for each in (self.alertmanager,) if each is not None]
        found = [each.url for each in self.channels.values() if each.url and not each.url.startswith("http")]
        found += [each for one in self.channels.values() for each in (one.token, one.password) if each]
        return (*found, *(each for one in logins for each in (one.token, one.password) if each))


class _Partition(_LeadTime):
    database: bool = False
    threshold_ratio: Ratio | None = None


def _tls_address(value: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", value):
        raise ValueError('a host and a port such as "ldap.example.com:636"')
    return value


WebAddress = Annotated[str, Field(pattern=r"^https?://[^/\s@]+(/\S*)?$")]


class _Service(_Section):
    teamcity: WebAddress | None = None
    health: WebAddress | None = None
    certificate: Annotated[str, AfterValidator(_tls_address)] | None = None
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


class _Host(_Section):
    groups: list[Name] = Field(default_factory=list)
    ssh: Name | None = None
    local: bool = False
    example: bool = False
    lvm: bool = False
    sudo_password: SecretReference | None = None
    note: str = ""
    partitions: dict[Mountpoint, _Partition] = Field(default_factory=dict)
    services: dict[Name, _Service] = Field(default_factory=dict)


class _File(_Section):
    outputs: FilePath = Path("outputs")
    ssh_config: FilePath | None = None
    defaults: Defaults = Field(default_factory=Defaults)
    history: HistorySettings = Field(default_factory=HistorySettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    plan: PlanSettings = Field(default_factory=PlanSettings)
    ansible: AnsibleSettings | None = None
    notify: Notify = Field(default_factory=Notify)
    hosts: dict[Name, _Host] = Field(default_factory=dict)


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
    lvm: bool = False  # read LVM too, as root: thin pools, and what volume groups still have to give

    def partition(self, mountpoint: str) -> PartitionSettings:
        """The settings of one mount point; the defaults for one that is not listed."""
        listed = self.partitions.get(mountpoint)
        if listed is not None:
            return listed
        return _settings(mountpoint, _Partition(), self.defaults, listed=False)


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
                    next=_suggestion(unknown[0], self.hosts, "hosts"),
                )
            return [self.hosts[name] for name in dict.fromkeys(names)]
        if group is not None:
            chosen = [entry for entry in self.hosts.values() if group in entry.groups]
            if not chosen:
                raise UsageError(
                    f"no such group: {group}", where=str(self.file), next=_suggestion(group, self.groups, "groups")
                )
            return chosen
        return list(self.hosts.values())


def find(given: str | os.PathLike[str] | None = None) -> Path:
    """The config file: the one given, `$RUNBOOKS_CONFIG`, `runbooks.toml` here or in a parent directory, or
    `~/.config/runbooks/runbooks.toml`. Raises UsageError when there is none."""
    if given is not None:
        return Path(given).expanduser()
    if os.environ.get(CONFIG_ENV):
        return Path(os.environ[CONFIG_ENV]).expanduser()
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
        parsed = _File.model_validate(raw)
    except ValidationError as error:
        raise UsageError(
            _all_mistakes(path, error),
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
        mistakes = "; ".join(_mistake(detail) for detail in error.errors(include_url=False))
        raise UsageError(mistakes, true_now="nothing was planned") from error


def _resolve(path: Path, parsed: _File) -> Config:
    base = path.parent

    def absolute(value: Path) -> Path:
        return base / value.expanduser()

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


def _entry(name: str, host: _Host, defaults: Defaults) -> HostEntry:
    partitions = {
        mountpoint: _settings(mountpoint, partition, defaults) for mountpoint, partition in host.partitions.items()
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


def _settings(mountpoint: str, partition: _Partition, defaults: Defaults, *, listed: bool = True) -> PartitionSettings:
    own = partition.lead_time_days is not None or partition.lead_time_working_days is not None
    lead: _LeadTime = partition if own else defaults
    return PartitionSettings(
        mountpoint,
        database=partition.database,
        threshold_ratio=_or(partition.threshold_ratio, defaults.threshold_ratio),
        lead_time_days=_or(lead.lead_time_days, _LEAD_TIME_DAYS),
        listed=listed,
        lead_time_working_days=lead.lead_time_working_days,
        calendar=Calendar(tuple(defaults.working_week), tuple(defaults.holidays)),
    )


def _with_ansible(inventory: Path, listed: dict[str, HostEntry], parsed: _File) -> dict[str, HostEntry]:
    """Ansible's hosts with what `[hosts.NAME]` adds to them; a `[hosts.NAME]` unknown to Ansible is a mistake."""
    # Imported here: only those who name an Ansible inventory pay for its parser.
    from runbooks_lib.ansible_inventory import read_inventory

    hosts: dict[str, HostEntry] = {}
    for found in read_inventory(inventory):
        entry = listed.get(found.name) or _entry(found.name, _Host(), parsed.defaults)
        asked_ssh = parsed.hosts[found.name].ssh if found.name in parsed.hosts else None
        hosts[found.name] = HostEntry(
            name=found.name,
            ssh_name=asked_ssh or found.ssh_name,
            groups=tuple(dict.fromkeys((*found.groups, *entry.groups))),
            local=entry.local,
            example=entry.example,
            sudo_password=entry.sudo_password,
            note=entry.note,
            partitions=entry.partitions,
            services=entry.services,
            defaults=parsed.defaults,
            port=found.port,
            user=found.user,
            lvm=entry.lvm,
        )
    unknown = [name for name in listed if name not in hosts]
    if unknown:
        raise UsageError(
            f"[hosts] names {', '.join(unknown)}, which the Ansible inventory does not have",
            where=str(inventory),
            next=_suggestion(unknown[0], hosts, "hosts"),
        )
    return hosts


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _suggestion(name: str, existing: Iterable[str], kind: Literal["hosts", "groups"]) -> str:
    names = sorted(existing)
    if not names:
        return f"the inventory has no {kind} yet"
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"did you mean {close[0]}? " if close else "") + f"{kind}: {shown}"


# -- mistakes in words -------------------------------------------------------------------------------------------------

_EXPECTED = {
    "bool_type": "true or false",
    "string_type": "a string in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": 'a list such as ["databases"]',
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path in quotes",
    "date_type": "a date without quotes, such as 2026-12-25",
    "date_from_datetime_inexact": "a date without a time, such as 2026-12-25",
    "missing": "a value: this key must be given",
}


def _all_mistakes(path: Path, error: ValidationError) -> str:
    mistakes = [_mistake(detail) for detail in error.errors(include_url=False)]
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return "\n".join([f"{path}: {count}", *(f"  {line}" for line in mistakes)])


def _mistake(detail: ErrorDetails) -> str:
    parts = [str(part) for part in detail["loc"] if part != "[key]"]
    key = ".".join(_toml_key(part) for part in parts) or "(whole file)"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: found an unknown key, expected {_known_keys(parts)}"
    if kind == "missing":
        return f"{key}: found nothing, expected {_EXPECTED['missing']}"
    if kind == "value_error":
        expected = str(context["error"])
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    elif kind.startswith(("greater_than", "less_than")):
        expected = _range(kind, context, parts)
    elif kind == "literal_error":
        expected = f"one of {context['expected']}"
    elif kind == "string_pattern_mismatch":
        expected = "an address that begins with http:// or https://"
    else:
        expected = detail["msg"]
    secret = bool(parts) and (parts[-1] in _SECRETS or (parts[0], parts[-1]) == ("notify", "url"))
    found = "a value" if secret else _shown(detail["input"])
    return f"{key}: found {found}, expected {expected}"


_SECRETS = {"sudo_password", "password", "token"}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "…"


def _range(kind: str, context: Mapping[str, Any], parts: list[str]) -> str:
    limit = next(iter(context.values()))
    words = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }[kind]
    hint = " (0.9 means 90 %)" if parts and parts[-1].endswith("_ratio") else ""
    return f"{words} {limit:g}{hint}"


def _toml_key(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'


def _known_keys(parts: list[str]) -> str:
    """The keys that stand beside an unknown one, nearest first."""
    model: type[BaseModel] = _File
    if parts[0] == "hosts":
        deeper: type[BaseModel] = _Service if len(parts) > 3 and parts[2] == "services" else _Partition
        model = deeper if len(parts) > 3 else _Host
    elif parts[:2] == ["notify", "channels"]:
        model = Channel
    elif parts[:2] == ["notify", "alertmanager"] and len(parts) > 2:
        model = Alertmanager
    elif len(parts) > 1:
        model = _TABLES[parts[0]]
    known = sorted(model.model_fields)
    close = difflib.get_close_matches(parts[-1], known, n=1)
    everything = ", ".join(known)
    return f"{close[0]} (all keys here: {everything})" if close else f"one of {everything}"


_TABLES: dict[str, type[BaseModel]] = {
    "defaults": Defaults,
    "history": HistorySettings,
    "collect": CollectSettings,
    "plan": PlanSettings,
    "ansible": AnsibleSettings,
    "notify": Notify,
}
