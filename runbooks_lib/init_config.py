"""The first `runbooks.toml`: what `runbook init` writes from the names in ~/.ssh/config. It asks nothing and connects
to nothing; the person strikes out what is not meant."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import HostError
from runbooks_lib.hosts.ssh_config_file import Alias, list_hosts
from runbooks_lib.hosts.ssh_settings import SshSettings, resolve_many

_HEAD = """\
# The inventory: which hosts are read, and which of their partitions matter. How a host is reached stands in
# ~/.ssh/config and nowhere else; `runbook hosts check` tries every host, `docs/inventory.md` lists every key.

[defaults]
threshold_ratio = 0.90      # of what df calls Use%
lead_time_days = 14         # from "we should do something" to "it is done"

[history]
path = "outputs/history.sqlite"
"""
_EXAMPLE = """
# [hosts.tc-db-01]
# groups = ["databases"]
# ssh = "tc-db-01"          # the name in ~/.ssh/config, when it differs
# sudo_password = "env:TC_DB_SUDO"
# [hosts.tc-db-01.partitions."/srv/db"]
# database = true
# threshold_ratio = 0.85
# lead_time_days = 21
"""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Names of code hosting services, which stand in many ~/.ssh/config files and run no shell.
_NO_SHELL = re.compile(r"(?:^|\.)(?:github|gitlab|bitbucket|codeberg|sr|azure)\.(?:com|org|ht)$|^ssh\.dev\.azure\.com$")


@dataclass(frozen=True)
class Written:
    """A starter file that was written: where, and `sentence` says what stands in it and what to do next."""

    path: Path
    starter: Starter

    @property
    def sentence(self) -> str:
        active = len(self.starter.hosts)
        found = f"{active} host{'' if active == 1 else 's'} from the SSH configuration"
        if self.starter.commented:
            found += f"; left out, each with its reason in the file: {', '.join(self.starter.commented)}"
        return f"Wrote {self.path}: {found}. Look through it, then: runbook hosts check"


@dataclass(frozen=True)
class Starter:
    """The text of a starter file; `hosts` are active in it, `commented` stand there as comments with their reason."""

    text: str
    hosts: tuple[str, ...]
    commented: tuple[str, ...]


def starter(config_file: str | os.PathLike[str] | None = None) -> Starter:
    """A starter `runbooks.toml` from the concrete aliases of the SSH configuration (`config_file`: as `ssh -F`).

    Patterns are skipped. A name that others jump through, one that the configuration gives no way to reach, a second
    name for the same address and a code hosting service are commented out, each with its reason. The text is valid TOML
    whatever the names hold. Raises UsageError when the configuration cannot be read.
    """
    file = None if config_file is None else os.fspath(config_file)
    aliases = list_hosts(file)
    answers = resolve_many([alias.name for alias in aliases], config_file=file)
    bastions = _bastions(answers.values())
    parts, active, commented = [_HEAD], [], []
    seen: dict[tuple[str, int, str], str] = {}
    for alias in aliases:
        answer = answers[alias.name]
        reason = _reason_against(alias, answer, bastions, seen)
        if reason:
            parts.append(f"\n# {_one_line(reason)}\n# [hosts.{_key(alias.name)}]\n# groups = []\n")
            commented.append(alias.name)
            continue
        assert isinstance(answer, SshSettings)  # noqa: S101 - an error is a reason
        seen[_address(answer)] = alias.name
        parts.append(f"\n[hosts.{_key(alias.name)}]{_hint(alias, answer)}\n# groups = []\n")
        active.append(alias.name)
    parts.append(
        _EXAMPLE if active else f"\n# No host was found in the SSH configuration; write them here:\n#{_EXAMPLE}"
    )
    return Starter("".join(parts), tuple(active), tuple(commented))


def write(path: str | os.PathLike[str], *, ssh_config: str | os.PathLike[str] | None = None) -> Written:
    """Write the starter to `path`, whole or not at all, and never over a file that is there (UsageError).

    Raises UsageError too when the SSH configuration cannot be read or the file cannot be written.
    """
    target = Path(path).absolute()
    exists = UsageError(
        "the file exists already and is not overwritten",
        where=str(target),
        true_now="nothing was written",
        next="edit it, or name another with --output",
    )
    if target.exists() or target.is_symlink():
        raise exists
    made = starter(ssh_config)
    if not made.hosts and not made.commented:
        raise UsageError(
            "no host was found in the SSH configuration",
            where=os.fspath(ssh_config or "~/.ssh/config"),
            true_now="nothing was written",
            next="name another with --ssh-config, or write runbooks.toml by hand: docs/inventory.md shows one",
        )
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(made.text, encoding="utf-8")
        # A hard link appears whole and fails when the name is taken meanwhile; rename would replace it.
        os.link(temporary, target)
    except FileExistsError:
        raise exists from None
    except OSError as error:
        raise UsageError(
            f"the file cannot be written: {error.strerror}", where=str(target), true_now="nothing was written"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Written(target, made)


def _reason_against(
    alias: Alias, answer: SshSettings | HostError, bastions: set[str], seen: dict[tuple[str, int, str], str]
) -> str:
    if not alias.name.isprintable():
        return "not usable as it stands: the name does not print"
    if isinstance(answer, HostError):
        return f"not usable as it stands: {answer.what}"
    if alias.name in bastions:
        return "a jump host: others are reached through it; take the # away to watch its own disks too"
    if _NO_SHELL.search(answer.hostname):
        return f"{answer.hostname} runs no shell for you"
    if _address(answer) in seen:
        return f"the same address as {seen[_address(answer)]}"
    return ""


def _bastions(answers: Iterable[SshSettings | HostError]) -> set[str]:
    """Every name that stands in a ProxyJump, or in a ProxyCommand of the form `ssh … -W %h:%p NAME`."""
    found: set[str] = set()
    for answer in answers:
        if isinstance(answer, HostError):
            continue
        found.update(hop.host for hop in answer.proxy_jump)
        words = (answer.proxy_command or "").split()
        if words and words[0].rpartition("/")[2] == "ssh" and "-W" in words:
            found.update(word.rpartition("@")[2] for word in words[1:] if not word.startswith("-"))
    return found


def _address(settings: SshSettings) -> tuple[str, int, str]:
    return settings.hostname.lower(), settings.port, settings.user


def _hint(alias: Alias, settings: SshSettings) -> str:
    parts = []
    if settings.hostname != alias.name:
        parts.append(settings.hostname)
    if settings.proxy_jump:
        parts.append("through " + ", ".join(hop.host for hop in settings.proxy_jump))
    return f"  # {_one_line(' '.join(parts))}" if parts else ""


def _key(name: str) -> str:
    """A TOML key: bare where it may be, else a basic string (JSON's escapes are TOML's, but for the DEL character)."""
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    """Text that may stand in a TOML comment: one line, no control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", text.encode("utf-8", "replace").decode())[:300]
