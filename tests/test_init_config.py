"""The first runbooks.toml: from ~/.ssh/config, valid whatever it holds."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.errors import UsageError
from runbooks_lib.hosts import ssh_settings_cache
from runbooks_lib.init_config import starter
from runbooks_lib.init_config import write as write_starter

SSH_CONFIG = """
Host tc-db-01
  HostName 10.0.0.1
  ProxyJump ops@bastion:2200
Host tc-db-alias
  HostName 10.0.0.1
Host tc-*
  User ops
Host bastion
  HostName gate.example.com
Host gate2
Host behind-gate2
  ProxyCommand ssh -q -W %h:%p me@gate2
Host github.com git
  HostName github.com
  User git
Host strange.name
Host *
  ServerAliveInterval 5
"""


@pytest.fixture(autouse=True)
def without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same on every machine: the fallback answers. Its equality with ssh is tested beside it."""
    (tmp_path / "no-programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ssh_settings_cache.forget()
    yield
    ssh_settings_cache.forget()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config"
    path.write_text(text)
    return path


def test_the_starter_names_the_hosts_and_comments_what_is_none(tmp_path: Path) -> None:
    found = starter(write(tmp_path, SSH_CONFIG))
    assert found.hosts == ("tc-db-01", "behind-gate2", "strange.name")
    assert found.commented == ("tc-db-alias", "bastion", "gate2", "github.com", "git")
    assert "# a jump host" in found.text
    assert "10.0.0.1 through bastion" in found.text
    assert "the same address as tc-db-01" in found.text
    assert '[hosts."strange.name"]' in found.text
    assert "tc-*" not in found.text


def test_the_starter_is_an_inventory_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "runbooks.toml"
    path.write_text(starter(write(tmp_path, SSH_CONFIG)).text)
    assert list(config.load(path).hosts) == ["tc-db-01", "behind-gate2", "strange.name"]


def test_without_any_host_the_starter_shows_an_example(tmp_path: Path) -> None:
    found = starter(write(tmp_path, "Host *\n"))
    assert found.hosts == ()
    assert "# [hosts.tc-db-01]" in found.text
    assert tomllib.loads(found.text)["defaults"] == {"threshold_ratio": 0.9, "lead_time_days": 14}
    uncommented = found.text.replace("\n# ", "\n").replace("\nNo host", "\n# No host")
    uncommented = uncommented[uncommented.index("[hosts") :]
    assert tomllib.loads(uncommented)["hosts"]["tc-db-01"]["partitions"]["/srv/db"]["database"] is True


def test_names_that_are_hostile_to_toml_stay_text(tmp_path: Path) -> None:
    names = [
        b"'a\"b'",
        '"é"'.encode(),
        b'"a\x7fb"',
        b'"q\'r"',
        b'"\xff"',
        b'"x = 1"',
        b"a.b",
        "\U0001f600".encode(),
        '"日本\u202e"'.encode(),
    ]
    path = write(tmp_path, "")
    path.write_bytes(b"".join(b"Host " + name + b"\n" for name in names) + b"Host good\n")
    found = starter(path)
    assert found.hosts == ("é", "a.b", "\U0001f600", "good")
    assert len(found.commented) == 6
    assert set(tomllib.loads(found.text)["hosts"]) == set(found.hosts)


def test_a_name_that_cannot_be_resolved_is_commented_with_its_reason(tmp_path: Path) -> None:
    found = starter(write(tmp_path, "Host kerb\n KnownHostsCommand /bin/x\nHost fine\n"))
    assert found.hosts == ("fine",)
    assert "not usable as it stands" in found.text
    assert "knownhostscommand" in found.text


def test_a_configuration_that_cannot_be_read_ends_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        starter(tmp_path / "missing")


def test_the_starter_is_written_whole_and_never_over_a_file(tmp_path: Path) -> None:
    target = tmp_path / "runbooks.toml"
    written = write_starter(target, ssh_config=write(tmp_path, SSH_CONFIG))
    assert target.read_text() == written.starter.text
    for part in (str(target), "3 hosts", "bastion", "runbook hosts check"):
        assert part in written.sentence
    with pytest.raises(UsageError, match="not overwritten"):
        write_starter(target, ssh_config=tmp_path / "config")
    (tmp_path / "link.toml").symlink_to("nowhere")
    with pytest.raises(UsageError, match="not overwritten"):
        write_starter(tmp_path / "link.toml", ssh_config=tmp_path / "config")
    with pytest.raises(UsageError, match="cannot be written"):
        write_starter(tmp_path / "no" / "such" / "directory.toml", ssh_config=tmp_path / "config")
    assert not list(tmp_path.glob(".*.tmp"))
