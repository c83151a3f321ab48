"""An Ansible inventory: what Ansible reads, and nothing that runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from runbooks_lib import ansible_inventory
from runbooks_lib.ansible_inventory import AnsibleHost, read_inventory
from runbooks_lib.errors import UsageError

INI = """
[databases]
tc-db-01 ansible_host=10.0.0.1 ansible_port=2222 ansible_ssh_pass=canary-5d1
tc-db-[02:03]
old-one ansible_ssh_user=legacy ansible_user=newer
[web]
tc-web-01:2200
[production:children]
databases
web
[databases:vars]
ansible_user=ops
[all:vars]
ansible_ssh_common_args=-o ProxyJump=bastion
"""
YAML = """
all:
  children:
    databases:
      hosts:
        tc-db-01: {ansible_host: 10.0.0.1, ansible_port: 2222}
        win-01: {ansible_connection: winrm}
        here: {ansible_connection: local}
      vars: {ansible_user: ops}
  hosts:
    alone:
"""


def write(tmp_path: Path, text: str, name: str = "hosts") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_an_ini_inventory_is_read_with_ranges_children_and_group_variables(tmp_path: Path) -> None:
    hosts = {host.name: host for host in read_inventory(write(tmp_path, INI))}
    assert list(hosts) == ["tc-db-01", "tc-db-02", "tc-db-03", "old-one", "tc-web-01"]
    first = hosts["tc-db-01"]
    assert (first.ssh_name, first.port, first.user) == ("10.0.0.1", 2222, "ops")
    assert first.groups == ("databases", "production")
    assert (hosts["tc-db-02"].ssh_name, hosts["tc-db-02"].port) == ("tc-db-02", None)
    assert hosts["old-one"].user == "legacy"
    assert (hosts["tc-web-01"].port, hosts["tc-web-01"].user) == (2200, None)
    assert "ansible_ssh_common_args is not followed" in hosts["tc-db-02"].notes[0]
    assert "canary" not in repr(hosts)


def test_a_yaml_inventory_is_read_and_hosts_that_need_no_ssh_are_marked_or_left_out(tmp_path: Path) -> None:
    hosts = {host.name: host for host in read_inventory(write(tmp_path, YAML, "hosts.yml"))}
    assert hosts["tc-db-01"] == AnsibleHost("tc-db-01", "10.0.0.1", ("databases",), 2222, "ops")
    assert hosts["alone"] == AnsibleHost("alone", "alone")
    assert hosts["here"].local
    assert "win-01" not in hosts


def test_a_directory_with_group_vars_is_read(tmp_path: Path) -> None:
    write(tmp_path, "[databases]\ntc-db-01\n", "inventory/hosts")
    write(tmp_path, "ansible_user: from-group-vars\n", "inventory/group_vars/databases.yml")
    (host,) = read_inventory(tmp_path / "inventory")
    assert host.user == "from-group-vars"


def test_no_setting_of_the_users_ansible_has_a_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    script = write(tmp_path, f"#!/bin/sh\ntouch {ran}\necho '{{}}'\n", "ask")
    script.chmod(0o700)
    write(tmp_path, f"[defaults]\nvault_password_file = {script}\ninventory = {script}\n", "ansible.cfg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "ansible.builtin.script")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    monkeypatch.setenv("LC_ALL", "C")
    assert [host.name for host in read_inventory(write(tmp_path, "[a]\nh1\n"))] == ["h1"]
    assert not ran.exists()


@pytest.mark.parametrize("directory", [False, True])
def test_an_inventory_that_is_a_program_is_never_run(tmp_path: Path, directory: bool) -> None:
    ran = tmp_path / "ran"
    script = write(tmp_path, f"#!/bin/sh\ntouch {ran}\necho '{{}}'\n", "inventory/ask.sh")
    script.chmod(0o700)
    with pytest.raises(UsageError):
        read_inventory(script.parent if directory else script)
    assert not ran.exists()


def test_a_plain_file_with_the_x_bit_is_still_a_plain_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[a]\nh1\n")
    path.chmod(0o755)
    assert [host.name for host in read_inventory(path)] == ["h1"]


def test_a_template_is_not_evaluated_and_every_mistake_is_told(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = f"""
all:
  hosts:
    h1: {{ansible_host: "{{{{ lookup('pipe', 'touch {ran}') }}}}"}}
    h2: {{ansible_port: lots}}
    h3: {{ansible_host: "-oProxyCommand=id"}}
    h4:
      ansible_user: !vault |
        $ANSIBLE_VAULT;1.1;AES256
        6666
    h5: {{ansible_user: "a b"}}
"""
    with pytest.raises(UsageError) as raised:
        read_inventory(write(tmp_path, text, "hosts.yml"))
    for part in (
        "5 mistakes",
        "h1: ansible_host: found a template",
        "h2: ansible_port: found 'lots'",
        "h3",
        "h4",
        "h5",
    ):
        assert part in str(raised.value)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("hosts.yml", "all: [", "as YAML"),
        ("hosts.yml", "plugin: amazon.aws.aws_ec2\n", "plugin's configuration"),
        ("hosts", "[a\nh1\n", "as INI"),
        ("hosts", "", "no host"),
        ("hosts.yml", "all: {hosts: {w: {ansible_connection: winrm}}}", "no host"),
    ],
)
def test_a_file_that_is_no_inventory_ends_in_one_message(tmp_path: Path, name: str, text: str, part: str) -> None:
    path = write(tmp_path, text, name)
    with pytest.raises(UsageError) as raised:
        read_inventory(path)
    assert part in str(raised.value)
    assert str(path) in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_word_of_the_file_is_not_repeated_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read_inventory(write(tmp_path, "[a]\nh1 ansible_ssh_pass=two canary-77\n"))
    assert "canary" not in str(raised.value)


def test_a_missing_file_and_a_missing_vault_key_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_inventory(tmp_path / "missing")
    write(tmp_path, "$ANSIBLE_VAULT;1.1;AES256\n3661\n", "inventory/group_vars/all/vault.yml")
    with pytest.raises(UsageError, match="ansible-vault"):
        read_inventory(write(tmp_path, "[a]\nh1\n", "inventory/hosts"))


def test_a_reader_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write(tmp_path, f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/pid\nwait\n", "bin/ansible-inventory")
    program.chmod(0o700)
    monkeypatch.setattr(ansible_inventory.sys, "executable", str(program.parent / "python"))
    started = time.monotonic()
    with pytest.raises(UsageError, match="did not answer within 1 s"):
        read_inventory(write(tmp_path, "[a]\nh1\n"), deadline_seconds=1)
    assert time.monotonic() - started < 4
    if sys.platform == "linux":
        # Killed is not yet gone, on a machine that is busy.
        status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
        end = time.monotonic() + 10
        while status.exists() and "State:\tZ" not in status.read_text():
            assert time.monotonic() < end, status.read_text()
            time.sleep(0.01)
