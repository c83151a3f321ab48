"""The SSH configuration without OpenSSH: paramiko's parser, fenced in.

paramiko's `SSHConfig` ignores Include (paramiko#1044), takes `Match tagged` and `Match localnetwork` for matching, runs
over every block twice, expands few tokens and those wrongly, and keeps what it does not understand. So the text is read
first, and whatever it would not read as ssh does is refused with its file and line. What is left - Host blocks,
`Match all | originalhost | localuser`, the options below - comes out as from `ssh -G` (the tests compare them).
"""

from __future__ import annotations

import io
import os
import pwd
import re
from pathlib import Path
from typing import ClassVar

import paramiko

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import SettingsRefused
from runbooks_lib.hosts.ssh_config_file import (
    SYSTEM_CONFIG,
    ConfigLine,
    file_lines,
    home_directory,
    included_files,
    top_files,
)

_HONOURED = frozenset(
    """
    addressfamily bindaddress bindinterface certificatefile checkhostip ciphers compression connecttimeout
    forwardagent globalknownhostsfile gssapiauthentication hashknownhosts hostbasedauthentication
    hostkeyalgorithms hostkeyalias hostname identitiesonly identityagent identityfile kexalgorithms
    knownhostscommand localcommand macs nohostauthenticationforlocalhost permitlocalcommand pkcs11provider port
    proxycommand proxyjump proxyusefdpass pubkeyauthentication remotecommand requiredrsasize revokedhostkeys
    serveraliveinterval stricthostkeychecking user userknownhostsfile verifyhostkeydns
    """.split()  # noqa: SIM905
)
# These change neither where nor how a host is reached, or only what is not used here.
_HARMLESS = frozenset(
    """
    addkeystoagent batchmode canonicalizehostname casignaturealgorithms challengeresponseauthentication
    clearallforwardings connectionattempts controlmaster controlpath controlpersist dynamicforward
    enableescapecommandline enablesshkeysign escapechar exitonforwardfailure fingerprinthash
    forkafterauthentication forwardx11 forwardx11timeout forwardx11trusted gatewayports
    gssapidelegatecredentials gssapikeyexchange hostbasedacceptedalgorithms hostbasedkeytypes include ipqos
    kbdinteractiveauthentication kbdinteractivedevices localforward loglevel logverbose numberofpasswordprompts
    obscurekeystroketiming passwordauthentication permitremoteopen preferredauthentications protocol
    pubkeyacceptedalgorithms pubkeyacceptedkeytypes rekeylimit remoteforward requesttty securitykeyprovider
    sendenv serveralivecountmax sessiontype setenv stdinnull streamlocalbindmask streamlocalbindunlink
    syslogfacility tcpkeepalive tunnel tunneldevice updatehostkeys usekeychain useroaming visualhostkey
    xauthlocation
    """.split()  # noqa: SIM905
)
_ONE_PATH = frozenset({"identityfile", "certificatefile", "identityagent", "revokedhostkeys"})
_MATCH_WITHOUT = frozenset({"originalhost", "localuser"})
_TOKENS = {"hostname": {"%h"}, "proxyjump": set(), "user": set()}  # what may stand in them here
_FIRST_ONLY = "certificatefile"  # ssh collects all of them, paramiko keeps the first


class _Unexpanded(paramiko.SSHConfig):  # type: ignore[misc]
    """Values as they are written: paramiko knows few tokens and expands %h before it knows the host name."""

    TOKENS_BY_CONFIG_KEY: ClassVar[dict[str, list[str]]] = {}


def read_options(ssh_name: str, config_file: str | None, *, user: str | None, port: int | None) -> dict[str, list[str]]:
    """Keyword → values for one name, in the shape of `ssh_options.parse_output`.

    Raises SettingsRefused, with file and line, for anything that paramiko's parser would not read as ssh does.
    """
    config = _Unexpanded()
    lines: list[ConfigLine] = []
    for path in top_files(config_file):
        if not Path(path).exists() and config_file is None:
            continue
        try:
            found = list(file_lines(path))
            text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise _refused(ssh_name, path, f"the SSH configuration cannot be read: {error.strerror}") from error
        except UsageError as error:
            raise _refused(ssh_name, error.where, error.what) from error
        commands = 0
        for line in found:
            _refuse_unfaithful(ssh_name, line, of_system=path == SYSTEM_CONFIG)
            # paramiko lets a later `ProxyCommand none` of the same block win; ssh takes the first.
            commands = 0 if line.keyword in ("host", "match") else commands + (line.keyword == "proxycommand")
            if commands > 1:
                raise _refused(ssh_name, line.place, "a second ProxyCommand in one block")
        lines += found
        try:
            config.parse(io.StringIO(text))
        except (paramiko.ConfigParseError, ValueError) as error:
            raise _refused(ssh_name, path, str(error)) from error
    local_user, _, host = ssh_name.rpartition("@")
    found_options = config.lookup(host)
    for keyword in found_options:
        if keyword not in _HONOURED and keyword not in _HARMLESS:
            place = next((line.place for line in lines if line.keyword == keyword), "the SSH configuration")
            raise _refused(ssh_name, place, f"{keyword} is not supported without the OpenSSH client")
    if {"proxyjump", "proxycommand"} <= found_options.keys():
        # The first of the two wins for ssh; paramiko does not tell which it was.
        place = next(line.place for line in lines if line.keyword in ("proxyjump", "proxycommand"))
        raise _refused(ssh_name, place, "both ProxyJump and ProxyCommand apply to this host")
    return _complete(host, dict(found_options), user or local_user or None, port)


def _complete(
    host: str, found: dict[str, str | list[str] | None], user: str | None, port: int | None
) -> dict[str, list[str]]:
    """The defaults that `ssh -G` would have printed, and values as lists."""
    ssh_directory = f"{home_directory()}/.ssh"
    options: dict[str, list[str]] = {
        "hostname": [host],
        "user": [pwd.getpwuid(os.getuid()).pw_name],
        "port": ["22"],
        "identityfile": [
            f"{ssh_directory}/{name}" for name in ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
        ],
        "userknownhostsfile": [f"{ssh_directory}/known_hosts {ssh_directory}/known_hosts2"],
        "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
    }
    for keyword, value in found.items():
        if keyword in _HONOURED:
            options[keyword] = list(value) if isinstance(value, list) else ["none" if value is None else value]
    options["hostname"] = [options["hostname"][0].replace("%h", host)]
    if user is not None:
        options["user"] = [user]
    if port is not None:
        options["port"] = [str(port)]
    return options


def _refuse_unfaithful(ssh_name: str, line: ConfigLine, *, of_system: bool) -> None:
    why = _unfaithful(line, of_system=of_system)
    if why:
        raise _refused(ssh_name, line.place, f"{line.keyword} {line.value[:120]}: {why}")


def _unfaithful(line: ConfigLine, *, of_system: bool) -> str:
    keyword, arguments = line.keyword, line.arguments
    if keyword == "include":
        # Debian's own file includes a directory that is usually empty.
        return "Include is not followed without the OpenSSH client" if included_files(line, of_system=of_system) else ""
    if keyword == "match":
        return _unfaithful_match(arguments)
    if keyword == "host":
        return "a pattern with [ or \\ is read differently" if re.search(r"[\[\]\\#]", line.value) else ""
    if not arguments:
        return "the value is missing"
    if "#" in line.value and not re.match(r"\"[^\"]*\"$", line.value):
        return "a comment after a value is read differently"
    wholly_quoted = len(arguments) == 1 and line.value == f'"{arguments[0]}"'
    if re.search(r"[\"'\\]", line.value) and not wholly_quoted:
        return "quotes inside a value are read differently"
    if keyword in ("userknownhostsfile", "globalknownhostsfile") and wholly_quoted and " " in arguments[0]:
        return "a path with a space is read differently"
    if keyword in _ONE_PATH and len(arguments) != 1:
        return "one path is expected (quote it when it holds a space)"
    if keyword == _FIRST_ONLY:
        return "CertificateFile is not collected as ssh does it"
    tokens = set(re.findall(r"%.", line.value))
    if keyword in _TOKENS and tokens - _TOKENS[keyword]:
        return f"the token {min(tokens - _TOKENS[keyword])} is not read as ssh reads it"
    if keyword == "canonicalizehostname" and arguments[0].lower() not in ("no", "false"):
        return "host names are not made canonical without the OpenSSH client"
    return ""


def _unfaithful_match(arguments: tuple[str, ...]) -> str:
    words = [word.lower() for word in arguments]
    if words == ["all"]:
        return ""
    while words:
        condition = words.pop(0).removeprefix("!")
        if condition not in _MATCH_WITHOUT or not words:
            return f"Match {condition} is not supported without the OpenSSH client"
        words.pop(0)
    return "" if arguments else "Match without a condition"


def _refused(ssh_name: str, place: str, why: str) -> SettingsRefused:
    return SettingsRefused(
        ssh_name,
        f"{place}: {why}",
        true_now="not connected; there is no OpenSSH client (`ssh`) on PATH to ask",
        next="install it (Debian: apt-get install openssh-client), or change that line",
    )
