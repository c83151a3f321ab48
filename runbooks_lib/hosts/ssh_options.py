"""From the options of ssh_config(5) to settings: tokens and `~` expanded, what cannot be done here refused or said."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.hosts.host import SettingsRefused
from runbooks_lib.hosts.ssh_config_file import home_directory

_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
# ssh.c, DEFAULT_CLIENT_PERCENT_EXPAND_ARGS. %C is left out on purpose: what it hashes differs between versions.
_TOKEN = re.compile(r"%(.)")
_ADDRESS = re.compile(r"(?:[^@]+@)?[0-9A-Fa-f:.]+(?:%\w+)?")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class JumpHop:
    """One hop of ProxyJump as it is written; its own settings are resolved by `route`."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class SshSettings:
    """What the SSH configuration says about one name. Paths are absolute, tokens and `~` expanded.

    `identity_files` and `certificate_files` may name files that do not exist (the defaults of ssh do:
    `identity_files_are_defaults`). `identity_agent` is a socket path, None when no agent is configured: that of the
    environment is used only when IdentityAgent names it. `known_hosts_files` are the user's, then the global ones.
    `proxy_command` is ready for `sh -c`. `notes` are things that ssh would do and that are not done here.
    """

    ssh_name: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    identity_files_are_defaults: bool = False
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None
    pubkey_authentication: bool = True
    host_key_alias: str | None = None
    user_known_hosts_files: tuple[str, ...] = ()
    global_known_hosts_files: tuple[str, ...] = ()
    revoked_host_keys: tuple[str, ...] = ()
    check_host_ip: bool = False
    hash_known_hosts: bool = False
    proxy_jump: tuple[JumpHop, ...] = ()
    proxy_command: str | None = None
    connect_timeout: float | None = None
    address_family: str = "any"  # any, inet or inet6
    bind_address: str | None = None
    server_alive_interval: float = 0.0
    compression: bool = False
    config_file: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def known_hosts_files(self) -> tuple[str, ...]:
        return self.user_known_hosts_files + self.global_known_hosts_files


def parse_output(text: str) -> dict[str, list[str]]:
    """Keyword (lower case) → its values in order, from the output of `ssh -G`."""
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        options.setdefault(keyword.lower(), []).append(value)
    return options


def from_options(ssh_name: str, options: Mapping[str, list[str]], config_file: str | None = None) -> SshSettings:
    """Settings from keyword → values. Raises SettingsRefused for what cannot be done, or when a value is missing."""

    def first(keyword: str) -> str | None:
        value = next(iter(options.get(keyword, ())), None)
        return None if value is None or value.lower() == "none" else value

    def flag(keyword: str) -> bool:
        return (first(keyword) or "no").lower() in ("yes", "true", "ask", "always")

    def seconds(keyword: str) -> float | None:
        value = first(keyword)
        return float(value) if value is not None and value.isdigit() else None

    hostname, port, user = first("hostname"), first("port"), first("user")
    if hostname is None or user is None or port is None or not port.isdigit():
        raise SettingsRefused(
            ssh_name,
            "`ssh -G` did not say hostname, user and port",
            true_now="not connected",
            next="check that `ssh` on PATH is OpenSSH 6.8 or newer: ssh -V",
        )
    _refuse_what_cannot_be_done(ssh_name, first, flag)
    host_key_alias = first("hostkeyalias")
    original = ssh_name.rpartition("@")[2]
    tokens = {
        "%": "%",
        "h": hostname,
        "n": original,
        "k": host_key_alias or original,
        "p": port,
        "r": user,
        "u": _local_user(),
        "i": str(os.getuid()),
        "d": home_directory(),
        "l": socket.gethostname(),
        "L": socket.gethostname().partition(".")[0],
        "j": first("proxyjump") or "",
    }

    def path(value: str) -> str:
        return expand_path(ssh_name, value, tokens)

    def paths(keyword: str) -> tuple[str, ...]:
        found = (path(value) for value in options.get(keyword, ()) if value.lower() != "none")
        return tuple(dict.fromkeys(found))

    jump, command = first("proxyjump"), first("proxycommand")
    identity_files = paths("identityfile")
    defaults = tuple(f"{home_directory()}/.ssh/{name}" for name in _DEFAULT_IDENTITIES)
    return SshSettings(
        ssh_name=ssh_name,
        hostname=hostname,
        port=int(port),
        user=user,
        identity_files=identity_files,
        identity_files_are_defaults=bool(identity_files) and set(defaults[:2]) <= set(identity_files),
        certificate_files=paths("certificatefile"),
        identities_only=flag("identitiesonly"),
        identity_agent=_agent_socket(ssh_name, first("identityagent"), tokens),
        pubkey_authentication=(first("pubkeyauthentication") or "yes").lower() not in ("no", "false"),
        host_key_alias=host_key_alias.lower() if host_key_alias else None,
        user_known_hosts_files=tuple(map(path, split_files(first("userknownhostsfile")))),
        global_known_hosts_files=tuple(map(path, split_files(first("globalknownhostsfile")))),
        revoked_host_keys=paths("revokedhostkeys"),
        check_host_ip=flag("checkhostip"),
        hash_known_hosts=flag("hashknownhosts"),
        proxy_jump=parse_jump(ssh_name, jump) if jump else (),
        proxy_command=_percent(ssh_name, command, tokens) if command and not jump else None,
        connect_timeout=seconds("connecttimeout"),
        address_family=(first("addressfamily") or "any").lower(),
        bind_address=first("bindaddress"),
        server_alive_interval=seconds("serveraliveinterval") or 0.0,
        compression=flag("compression"),
        config_file=config_file,
        notes=tuple(_notes(first, flag)),
    )


def _refuse_what_cannot_be_done(ssh_name: str, first: Callable[[str], str | None], flag: Callable[[str], bool]) -> None:
    refused = {
        "knownhostscommand": "keys from KnownHostsCommand, which may also revoke some, are not asked for here",
        "bindinterface": "BindInterface",
        "proxyusefdpass": "ProxyUseFdpass",
    }
    for keyword, what in refused.items():
        value = first(keyword)
        if value is None or (keyword == "proxyusefdpass" and not flag(keyword)):
            continue
        raise SettingsRefused(
            ssh_name,
            f"the SSH configuration sets {keyword} {value[:200]}, which cannot be done here ({what})",
            true_now="not connected",
            next=f"take it out for this host in ~/.ssh/config (`Host {ssh_name}` before the block that sets it)",
        )


ALGORITHMS = {
    "ciphers": "Ciphers",
    "macs": "MACs",
    "kexalgorithms": "KexAlgorithms",
    "hostkeyalgorithms": "HostKeyAlgorithms",
    "requiredrsasize": "RequiredRSASize",
}


def _notes(first: Callable[[str], str | None], flag: Callable[[str], bool]) -> Iterator[str]:
    if (first("stricthostkeychecking") or "ask").lower() in ("no", "off", "false", "accept-new"):
        yield "StrictHostKeyChecking is set lower: not followed, an unknown host key is always refused here"
    if flag("nohostauthenticationforlocalhost"):
        yield "NoHostAuthenticationForLocalhost is not followed: host keys are always checked"
    if flag("verifyhostkeydns"):
        yield "VerifyHostKeyDNS is not followed: only known_hosts counts"
    if flag("gssapiauthentication"):
        yield "GSSAPIAuthentication is not tried: a key or a certificate is needed"
    if flag("hostbasedauthentication"):
        yield "HostbasedAuthentication is not tried: a key or a certificate is needed"
    if first("pkcs11provider"):
        yield "PKCS11Provider is not used: load the token into an agent and name it with IdentityAgent"
    if flag("forwardagent"):
        yield "ForwardAgent is not followed: the agent is never forwarded"
    if first("remotecommand"):
        yield "RemoteCommand is not run: the host gets the script that it is sent"
    if flag("permitlocalcommand") and first("localcommand"):
        yield "LocalCommand is not run"
    for keyword, name in ALGORITHMS.items():
        if first(keyword):
            yield f"{name} is not followed: of what the host knows, the first that this package prefers is taken"


def parse_jump(ssh_name: str, value: str) -> tuple[JumpHop, ...]:
    """The hops of a ProxyJump value, `[user@]host[:port]` or `ssh://…`, separated by commas. Raises SettingsRefused."""
    return tuple(_parse_hop(ssh_name, part.strip()) for part in value.split(","))


def _parse_hop(ssh_name: str, text: str) -> JumpHop:
    match = re.fullmatch(
        r"(?:ssh://)?(?:(?P<user>.+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:@\[\]]+))(?::(?P<port>\d{1,5}))?/?", text
    )
    if match is None and text.count(":") > 1 and _ADDRESS.fullmatch(text):
        user, _, host = text.rpartition("@")
        return JumpHop(host, user or None)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise SettingsRefused(
            ssh_name,
            f"the ProxyJump hop {text[:80]!r} is not [user@]host[:port]",
            true_now="not connected",
            next=f"correct ProxyJump for {ssh_name} in the SSH configuration",
        )
    return JumpHop(match["v6"] or match["host"], match["user"], int(match["port"]) if match["port"] else None)


def split_files(value: str | None) -> list[str]:
    """The paths of a known-hosts option as `ssh -G` prints them: joined by spaces, and never quoted.

    A word that does not begin like a path belongs to the path before it. (A list of relative paths is read as one; ssh
    takes those from the working directory, which is nobody's intention here.)
    """
    files: list[str] = []
    for word in (value or "").split(" "):
        if files and not word.startswith(("/", "~", "%", "$")):
            files[-1] += " " + word
        else:
            files.append(word)
    return [file for file in files if file]


def expand_path(ssh_name: str, value: str, tokens: Mapping[str, str]) -> str:
    """`~`, `%` tokens and `${VARIABLE}` of a path replaced; absolute. Raises SettingsRefused for an unset variable."""
    expanded = _variables(ssh_name, value)
    if expanded == "~" or expanded.startswith("~/"):
        expanded = home_directory() + expanded[1:]
    elif expanded.startswith("~"):
        name, slash, rest = expanded[1:].partition("/")
        try:
            expanded = pwd.getpwnam(name).pw_dir + slash + rest
        except KeyError:
            raise SettingsRefused(
                ssh_name, f"no user {name!r} for the path {value!r}", next="correct the path in the SSH configuration"
            ) from None
    return str(Path(_percent(ssh_name, expanded, tokens)).absolute())


def _percent(ssh_name: str, value: str, tokens: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1] in tokens:
            return tokens[match[1]]
        if match[1] == "C":
            raise SettingsRefused(
                ssh_name,
                f"%C in {value!r} cannot be computed here: what it hashes differs between OpenSSH versions",
                next="write the path or command without %C",
            )
        return match[0]

    return _TOKEN.sub(replacement, value)


def _variables(ssh_name: str, value: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise SettingsRefused(
                ssh_name,
                f"the environment has no {match[1]}, which {value!r} in the SSH configuration needs",
                next=f"set {match[1]}, or write the path out",
            )
        return os.environ[match[1]]

    return _VARIABLE.sub(replacement, value)


def _agent_socket(ssh_name: str, value: str | None, tokens: Mapping[str, str]) -> str | None:
    if value is None:
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if value.startswith("$") and not value.startswith("${"):
        # ssh_config(5): a value that begins with $ names an environment variable.
        return os.environ.get(value[1:])
    return expand_path(ssh_name, value, tokens)


def _local_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
