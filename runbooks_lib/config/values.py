"""What a key of `runbooks.toml` may hold: names, mount points, references to secrets, ratios, days."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


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


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def _tls_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", host) or not _is_port(port):
        raise ValueError('a host and a port (1 to 65535) such as "ldap.example.com:636"')
    return value


def _web_address(value: str) -> str:
    found = re.fullmatch(r"https?://([^/\s?#]+)([/?#]\S*)?", value)
    if found is None:
        raise ValueError("an address that begins with http:// or https://, and then names a host")
    if "@" in found[1]:
        raise ValueError("an address without a user and a password in it")
    port = re.fullmatch(r"(?:\[[^\[\]]+\]|[^:\[\]]+)(?::(.*))?", found[1])
    if port is None or (port[1] is not None and not _is_port(port[1])):
        raise ValueError("an address whose port, if it names one, is a number from 1 to 65535")
    return value


TlsAddress = Annotated[str, AfterValidator(_tls_address)]
WebAddress = Annotated[str, AfterValidator(_web_address)]


class Section(BaseModel):
    """A table whose unknown keys are mistakes, and whose values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
