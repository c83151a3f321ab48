"""Hosts and groups of an Ansible inventory (INI or YAML), read by Ansible itself.

`ansible-inventory` of the installed ansible-core parses the file, with group_vars and host_vars beside it, so ranges,
children and the order of variables mean what they mean to Ansible. It runs in an empty directory with a configuration
of our own: no ansible.cfg, no ANSIBLE_* setting and no plugin of the user has a say, and nothing asks for a password.

Only files are read. An inventory that is a program, or a plugin's configuration, would mean running code and asking a
cloud on each `runbook` command: it is refused, with the command that turns it into a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbooks_lib.errors import UsageError

DEADLINE_SECONDS = 60.0
_MOST_MEMORY_BYTES = 2 * 2**30
_CONFIGURATION = """\
[defaults]
retry_files_enabled = False
[inventory]
enable_plugins = ansible.builtin.yaml, ansible.builtin.ini
any_unparsed_is_failed = True
unparsed_is_failed = True
"""
# A key to vault-encrypted group_vars may be given by the environment; nothing ever asks for one.
_KEPT = ("ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST")
# The older names win where both are set (ansible.builtin.ssh: the last variable of each list is taken).
_SSH_NAME, _PORT, _USER = (
    ("ansible_ssh_host", "ansible_host"),
    ("ansible_ssh_port", "ansible_port"),
    (
        "ansible_ssh_user",
        "ansible_user",
    ),
)
_SSH_CONNECTIONS = frozenset(
    {"ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh"}
)
_LOCAL_CONNECTIONS = frozenset({"local", "ansible.builtin.local"})
_NOT_FOLLOWED = (
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_args",
    "ansible_ssh_private_key_file",
    "ansible_private_key_file",
    "ansible_password",
    "ansible_ssh_pass",
    "ansible_ssh_password",
)
_BAD_IN_NAME = re.compile(r"[\s\x00-\x1f\x7f'`\"$\\;&<>|(){}]")


@dataclass(frozen=True)
class AnsibleHost:
    """One host. `groups`: every group it is in, parents too, without `all` and `ungrouped`. `ssh_name`: `ansible_host`
    or the name; `port` and `user` are None unless the inventory sets them, and then win over ~/.ssh/config. `local`:
    ansible_connection is local. `notes`: variables about the connection that are not followed here."""

    name: str
    ssh_name: str
    groups: tuple[str, ...] = ()
    port: int | None = None
    user: str | None = None
    local: bool = False
    notes: tuple[str, ...] = ()


def read_inventory(
    path: str | os.PathLike[str], *, deadline_seconds: float = DEADLINE_SECONDS
) -> tuple[AnsibleHost, ...]:
    """The hosts of an inventory file or directory, in the inventory's order.

    Hosts that Ansible reaches by something else than SSH (winrm, docker, network_cli, …) are left out. Raises
    UsageError: no such file, a program or a plugin's configuration, a mistake in the file, encrypted or templated
    connection variables, no hosts, no ansible-inventory, no answer in time.
    """
    inventory = Path(path).expanduser().absolute()
    _refuse_what_is_no_inventory(inventory)
    answer = _run(inventory, deadline_seconds)
    try:
        parsed = json.loads(answer)
        variables: Mapping[str, Mapping[str, Any]] = parsed["_meta"]["hostvars"]
        groups = {name: group for name, group in parsed.items() if name != "_meta"}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "ansible-inventory gave an answer that is not understood",
            where=str(inventory),
            true_now="nothing was read",
            next=f"try it by hand: ansible-inventory -i {inventory} --list",
        ) from error
    found, mistakes = [], []
    for name, memberships in _memberships(groups).items():
        try:
            host = _host(name, memberships, variables.get(name, {}))
        except ValueError as error:
            mistakes.append(str(error))
            continue
        if host is not None:
            found.append(host)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise UsageError(
            "\n".join([count, *(f"  {mistake}" for mistake in mistakes)]),
            where=str(inventory),
            true_now="the inventory was not used; nothing was done",
            next="write plain values there; how a host is reached can stand in ~/.ssh/config instead",
        )
    if not found:
        raise UsageError(
            "the inventory has no host that is reached over SSH",
            where=str(inventory),
            next=f"see what Ansible reads: ansible-inventory -i {inventory} --graph",
        )
    return tuple(found)


def _memberships(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Host → its groups, nearest first, parents after them."""
    parents: dict[str, list[str]] = {}
    for name, group in groups.items():
        for child in group.get("children", ()):
            parents.setdefault(child, []).append(name)
    hosts: dict[str, list[str]] = {}
    for name, group in groups.items():
        for host in group.get("hosts", ()):
            pending = [name]
            memberships = hosts.setdefault(host, [])
            while pending:
                each = pending.pop(0)
                if each not in memberships:
                    memberships.append(each)
                    pending += parents.get(each, ())
    return {host: [name for name in names if name not in ("all", "ungrouped")] for host, names in hosts.items()}


def _host(name: str, groups: Iterable[str], variables: Mapping[str, Any]) -> AnsibleHost | None:
    """Raises ValueError with `host: variable: found, expected`; None for a host that is not reached over SSH."""
    connection = variables.get("ansible_connection", "ssh")
    local = connection in _LOCAL_CONNECTIONS
    if not local and connection not in _SSH_CONNECTIONS:
        return None
    ssh_name = _plain(name, variables, _SSH_NAME) or name
    user = _plain(name, variables, _USER)
    port = _plain(name, variables, _PORT)
    for what, text in (("name", name), ("ansible_host", ssh_name), ("ansible_user", user)):
        if text is not None and (not text or text.startswith("-") or _BAD_IN_NAME.search(text)):
            raise ValueError(f"{ascii(name)[1:-1]}: {what}: found {text[:60]!a}, expected a name that ssh accepts")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{name}: ansible_port: found {port[:60]!a}, expected a number from 1 to 65535")
    notes = tuple(
        f"{variable} is not followed: ~/.ssh/config says how a host is reached"
        for variable in _NOT_FOLLOWED
        if variables.get(variable) not in (None, "")
    )
    return AnsibleHost(name, ssh_name, tuple(groups), int(port) if port else None, user, local, notes)


def _plain(host: str, variables: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the variables that is set, as text. Raises ValueError when it is encrypted or a template."""
    for name in names:
        value = variables.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, dict):
            raise ValueError(f"{host}: {name}: found an encrypted value, expected a plain one")
        text = str(value)
        if "{{" in text or "{%" in text:
            raise ValueError(f"{host}: {name}: found a template ({text[:60]}), which is not evaluated here")
        return text
    return None


def _refuse_what_is_no_inventory(inventory: Path) -> None:
    if inventory.is_dir():
        return
    try:
        with inventory.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise UsageError(
            f"the Ansible inventory cannot be read: {error.strerror}",
            where=str(inventory),
            true_now="nothing was read",
            next="give [ansible] inventory the path of an INI or YAML inventory",
        ) from error
    if head == b"#!":
        raise _is_a_program(inventory, "the inventory is a program, and none is run to read an inventory")


def _is_a_program(inventory: Path, what: str) -> UsageError:
    return UsageError(
        what,
        where=str(inventory),
        true_now="nothing was run and nothing was read",
        next=f"write its answer to a file: ansible-inventory -i {inventory} --list --yaml --output hosts.yml",
    )


def _run(inventory: Path, deadline_seconds: float) -> bytes:
    beside = Path(sys.executable).parent / "ansible-inventory"
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-inventory")
    if program is None:
        raise UsageError(
            "an Ansible inventory is named, but there is no ansible-inventory to read it",
            where=str(inventory),
            next="pip install ansible-core (it is in requirements.txt)",
        )
    with tempfile.TemporaryDirectory(prefix="runbooks-ansible-") as directory:
        configuration = Path(directory) / "ansible.cfg"
        configuration.write_text(_CONFIGURATION)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_") or name in _KEPT}
        environment = {
            **kept,
            "ANSIBLE_CONFIG": str(configuration),
            "ANSIBLE_HOME": directory,
            "ANSIBLE_LOCAL_TEMP": directory,
            "ANSIBLE_NOCOLOR": "1",
            # Ansible starts in no other locale than a UTF-8 one.
            "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
            "COLUMNS": "1000",
        }
        process = subprocess.Popen(
            [program, "-i", str(inventory), "--list"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment,
            start_new_session=True,  # no terminal to ask on, and one group to end on the deadline
            preexec_fn=_bound_memory,
        )
        try:
            stdout, stderr = process.communicate(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"ansible-inventory did not answer within {deadline_seconds:g} s",
                where=str(inventory),
                true_now="it was stopped; nothing was read",
                next=f"try it by hand: ansible-inventory -i {inventory} --list",
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    if process.returncode != 0:
        raise _refusal(inventory, stderr.decode("utf-8", "replace"))
    return stdout


def _bound_memory() -> None:
    """A range such as h[1:100000000] must not take the machine with it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))


def _refusal(inventory: Path, said: str) -> UsageError:
    if "no vault secrets" in said:
        return UsageError(
            "variables beside the inventory are encrypted with ansible-vault, and there is no key",
            where=str(inventory),
            true_now="nothing was read",
            next="set ANSIBLE_VAULT_PASSWORD_FILE, or name an inventory without them",
        )
    if "Plugin configuration YAML file" in said:
        return _is_a_program(inventory, "the inventory is a plugin's configuration, and no plugin is run")
    reasons = {}
    for plugin, reason in re.findall(r"with '[\w.]*?(\w+)' plugin: (.*)", said):
        # "got: …" repeats a word of the file, which may be half a password.
        reasons[plugin] = re.sub(r"\bgot: .*", "got something else", reason.removeprefix("Failed to parse inventory: "))
    if inventory.suffix in (".yml", ".yaml"):
        reasons.pop("ini", None)
    told = "; ".join(f"as {plugin.upper()}: {reason[:300]}" for plugin, reason in reasons.items())
    return UsageError(
        f"Ansible cannot read the inventory. {told}" if told else "Ansible cannot read the inventory",
        where=str(inventory),
        true_now="nothing was read",
        next=f"mend the file; to see more: ansible-inventory -i {inventory} --list",
    )
