"""Who the host is: machine, kernel, distribution, and since when it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbooks_lib.facts.fact import Damaged, number

_HEX32 = re.compile(r"[0-9a-f]{32}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_UPTIME = re.compile(r"([0-9]{1,12}\.[0-9]{1,4}) [0-9.]+\s*\Z")
_RELEASE = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A host's identity. What it does not have is empty.

    `machine_id` (machine-id(5)) survives a reboot, `boot_id` does not: two counters are comparable only under one
    boot_id. `boot_time` is by the host's own clock."""

    hostname: str
    kernel: str
    boot_id: str
    boot_time: datetime
    uptime_seconds: float
    machine_id: str = ""
    distribution: str = ""  # os-release ID, e.g. "debian"
    distribution_version: str = ""  # VERSION_ID, e.g. "12"
    distribution_name: str = ""  # PRETTY_NAME
    architecture: str = ""
    vendor: str = ""
    product: str = ""


def parse_uptime(text: str) -> float:
    """Seconds since boot from /proc/uptime. Raises Damaged."""
    match = _UPTIME.match(text)
    if match is None:
        raise Damaged("/proc/uptime is not two numbers")
    return float(match[1])


def parse_machine_id(text: str) -> str:
    """The 32 hex digits of /etc/machine-id; empty for `uninitialized` or an empty file (machine-id(5)). Raises
    Damaged."""
    text = text.strip()
    if text in ("", "uninitialized"):
        return ""
    if _HEX32.match(text) is None:
        raise Damaged("/etc/machine-id is not 32 hex digits")
    return text


def parse_boot_id(text: str) -> str:
    """The UUID of this boot. Raises Damaged."""
    text = text.strip()
    if _UUID.match(text) is None:
        raise Damaged("boot_id is not a UUID")
    return text


def parse_os_release(text: str) -> dict[str, str]:
    """os-release(5) as key to value, quotes and their backslashes taken off. Nothing is evaluated."""
    found: dict[str, str] = {}
    for key, value in _RELEASE.findall(text):
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[key] = re.sub(r'\\(["\'$`\\])', r"\1", value) if "\\" in value else value
    return found


def parse(
    hostname: str,
    kernel: str,
    boot_id: str,
    uptime: str,
    stat: str,
    *,
    machine_id: str = "",
    os_release: str = "",
    architecture: str = "",
    vendor: str = "",
    product: str = "",
) -> Identity:
    """Identity from the texts of the files that say it. Raises Damaged when hostname, kernel or boot time make no
    sense."""
    if not kernel.strip():
        raise Damaged("the kernel's release is empty")
    at = stat.find("\nbtime ")
    if at < 0:
        raise Damaged("/proc/stat has no btime")
    seconds = number(stat[at + 7 : stat.find("\n", at + 7)])
    if seconds > 2**36:
        raise Damaged("btime is thousands of years ahead")
    release = parse_os_release(os_release)
    return Identity(
        hostname=hostname.strip(),
        kernel=kernel.strip(),
        boot_id=parse_boot_id(boot_id),
        boot_time=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds),
        uptime_seconds=parse_uptime(uptime),
        machine_id=parse_machine_id(machine_id),
        distribution=release.get("ID", ""),
        distribution_version=release.get("VERSION_ID", ""),
        distribution_name=release.get("PRETTY_NAME", release.get("NAME", "")),
        architecture=architecture.strip(),
        vendor=vendor.strip(),
        product=product.strip(),
    )
