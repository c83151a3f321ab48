"""How a name is reached: the SSH configuration's answer, as OpenSSH itself gives it.

`ssh -G NAME` prints what Host, Match, Include, ProxyJump and the rest come to, so their meaning is exactly OpenSSH's.
Where there is no `ssh`, `ssh_settings_fallback.py` reads the files and refuses what it cannot read faithfully. What
OpenSSH would do and this package cannot is refused (SettingsRefused) or said in `notes`, never ignored.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from shutil import which

from runbooks_lib.hosts import ssh_settings_cache as cache
from runbooks_lib.hosts.host import HostError, SettingsRefused
from runbooks_lib.hosts.ssh_config_file import Alias, list_hosts
from runbooks_lib.hosts.ssh_options import ALGORITHMS, JumpHop, SshSettings, from_options, parse_output
from runbooks_lib.hosts.ssh_settings_fallback import read_options

__all__ = ["Alias", "JumpHop", "SshSettings", "list_hosts", "resolve", "resolve_many", "route"]

DEADLINE_SECONDS = 10.0
_AT_ONCE = threading.BoundedSemaphore(max(4, 2 * (os.cpu_count() or 2)))
# The rule of ssh.c `valid_hostname` (9.6, CVE-2023-51385): a name is put into ProxyCommand and Match exec.
_BAD_IN_NAME = re.compile(r"[\s\x00-\x1f\x7f'`\"$\\;&<>|(){}]")
_LONGEST_NAME = 255
_LOOK_SECONDS = 2.0
_DEEPEST_ROUTE = 8


def resolve(
    ssh_name: str,
    *,
    config_file: str | os.PathLike[str] | None = None,
    user: str | None = None,
    port: int | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> SshSettings:
    """The settings for `ssh_name`; `user` and `port` win over the configuration, `config_file` stands for `ssh -F`.

    Answers are cached, in the process and on disk, until one of the configuration's files changes; one that rests on
    `Match exec`, canonical names or the environment is kept for a minute, in the process only.
    Raises SettingsRefused for a bad name, a bad configuration, and for what cannot be done faithfully.
    """
    check_name(ssh_name, user=user)
    if port is not None and not 0 < port < 65536:
        raise SettingsRefused(ssh_name, f"{port} is not a port number", next="give a port from 1 to 65535")
    config = None if config_file is None else os.fspath(config_file)
    if config is not None and config != "none":
        config = str(Path(config).expanduser().absolute())
    ssh = _ssh_program(os.environ.get("PATH"), int(time.monotonic() / _LOOK_SECONDS))
    key = cache.Key(ssh_name, user, port, config, ssh)
    kept, asked = cache.get(key)
    if kept is not None:
        return kept
    if ssh is None:
        settings = from_options(ssh_name, read_options(ssh_name, config, user=user, port=port), config)
    else:
        with _AT_ONCE:
            output = _ask_ssh(ssh, ssh_name, config, user, port, deadline_seconds)
        settings = from_options(ssh_name, _set_by_hand(ssh, parse_output(output)), config)
    cache.put(key, settings, asked)
    return settings


def resolve_many(
    names: Iterable[str],
    *,
    config_file: str | os.PathLike[str] | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> dict[str, SshSettings | HostError]:
    """`resolve` for each name, several at once; a name that fails has its error as value."""

    def one(name: str) -> SshSettings | HostError:
        try:
            return resolve(name, config_file=config_file, deadline_seconds=deadline_seconds)
        except HostError as error:
            return error

    wanted = list(dict.fromkeys(names))
    with ThreadPoolExecutor(max_workers=max(4, 2 * (os.cpu_count() or 2))) as pool:
        answers = dict(zip(wanted, pool.map(one, wanted), strict=True))
    cache.save()
    return answers


def route(settings: SshSettings) -> tuple[SshSettings, ...]:
    """The hops before the host, nearest first, each with its own settings; empty without ProxyJump.

    As ssh does: `-J a,b` reaches `b` through `a` whatever b's own ProxyJump says, and `a` by its own configuration. So
    only the first hop returned may have a `proxy_command`. Raises SettingsRefused for a circle.
    """
    hops: list[SshSettings] = []
    wanted = settings.proxy_jump
    seen = {settings.ssh_name}
    while wanted:
        resolved = [resolve(hop.host, config_file=settings.config_file, user=hop.user, port=hop.port) for hop in wanted]
        first, rest = resolved[0], [replace(hop, proxy_jump=(), proxy_command=None) for hop in resolved[1:]]
        if first.ssh_name in seen or len(hops) > _DEEPEST_ROUTE:
            raise SettingsRefused(
                settings.ssh_name,
                f"ProxyJump goes in a circle at {first.ssh_name}",
                next=f"look at ProxyJump in: ssh -G {first.ssh_name}",
            )
        seen.add(first.ssh_name)
        hops[:0] = [replace(first, proxy_jump=()), *rest]
        wanted = first.proxy_jump
    return tuple(hops)


@lru_cache(maxsize=4)
def _ssh_program(path: str | None, _now: int) -> str | None:
    """Where `ssh` is, looked for once a moment and not once a host."""
    return which("ssh", path=path)


def _set_by_hand(ssh: str, options: dict[str, list[str]]) -> dict[str, list[str]]:
    """The options without the algorithms that are what this ssh would take by itself: `-G` prints them all."""
    printed = options.keys() & ALGORITHMS
    defaults = _defaults(ssh) if printed else {}
    return {key: value for key, value in options.items() if key not in printed or defaults.get(key, value) != value}


@lru_cache(maxsize=4)
def _defaults(ssh: str) -> dict[str, list[str]]:
    try:
        return parse_output(_ask_ssh(ssh, "localhost", "none", None, None, DEADLINE_SECONDS))
    except SettingsRefused:
        return {}


def check_name(ssh_name: str, *, user: str | None = None) -> None:
    """Raises SettingsRefused for a name or user that ssh could take for an option or a shell could take apart."""
    for what, text in (("name", ssh_name), ("user", user)):
        if text is None:
            continue
        host = text.rpartition("@")[2] if what == "name" else text
        if not text or text.startswith("-") or host.startswith("-") or not host:
            problem = "is empty" if not text or not host else "begins with '-', which ssh would read as an option"
        elif len(text) > _LONGEST_NAME or _BAD_IN_NAME.search(text):
            problem = "holds a character that no host name has"
        else:
            continue
        raise SettingsRefused(
            ascii(ssh_name)[1:-1][:80],
            f"the {what} {text[:80]!a} {problem}",
            true_now="not connected, ssh was not asked",
            next="write a name as it stands after Host in ~/.ssh/config, or the host's address",
        )


def _ask_ssh(
    ssh: str, ssh_name: str, config_file: str | None, user: str | None, port: int | None, deadline_seconds: float
) -> str:
    command = [ssh, "-G", "-T"]
    command += ["-F", config_file] if config_file is not None else []
    command += ["-l", user] if user is not None else []
    command += ["-p", str(port)] if port is not None else []
    # A session of its own: Match exec starts commands, and on the deadline they go together.
    process = subprocess.Popen(
        [*command, "--", ssh_name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=deadline_seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise SettingsRefused(
            ssh_name,
            f"`ssh -G {ssh_name}` did not answer within {deadline_seconds:g} s",
            true_now="it was stopped; not connected",
            next="look for a slow Match exec, or a name server that does not answer, in the SSH configuration",
        ) from None
    if process.returncode != 0:
        said = stderr.decode("utf-8", "replace").strip() or f"exit status {process.returncode}"
        raise SettingsRefused(
            ssh_name,
            f"ssh refuses its configuration: {said[:1000]}",
            true_now="not connected",
            next=f"correct the file; to try it: ssh -G {ssh_name}",
        )
    return stdout.decode("utf-8", "surrogateescape")
