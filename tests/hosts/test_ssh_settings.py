"""Connection settings: exactly OpenSSH's meaning, or a refusal that says where."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts import ssh_settings
from runbooks_lib.hosts import ssh_settings_cache as cache
from runbooks_lib.hosts.host import SettingsRefused
from runbooks_lib.hosts.ssh_config_file import home_directory, split_arguments
from runbooks_lib.hosts.ssh_options import JumpHop, SshSettings, from_options, parse_jump, parse_output, split_files
from runbooks_lib.hosts.ssh_settings import list_hosts, resolve, resolve_many, route


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.forget()
    yield
    cache.forget()


@pytest.fixture
def no_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture
def ssh() -> None:
    if shutil.which("ssh") is None:
        pytest.fail("this test needs the package openssh-client")


def write(tmp_path: Path, text: str, name: str = "config") -> Path:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return path


EXAMPLE = """
# a comment
Host db
  HostName 10.0.0.7
  User=ops
  Port 2222
  IdentityFile ~/.ssh/id_db
  IdentityFile %d/keys/%r@%h
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/known_db /etc/known_db
  HostKeyAlias Cluster
  HashKnownHosts yes
  ProxyJump ops@bastion:2200,second
  ConnectTimeout 7

Host bastion second
  ProxyJump none
  User jump
  IdentityAgent none

Match originalhost web*,!web-9
  HostName %h.example.com

Host *
  Port 22
  ServerAliveInterval 30
"""


def check_example(config: Path) -> None:
    home = home_directory()
    db = resolve("db", config_file=config)
    assert (db.hostname, db.user, db.port, db.connect_timeout) == ("10.0.0.7", "ops", 2222, 7.0)
    assert db.identity_files == (f"{home}/.ssh/id_db", f"{home}/keys/ops@10.0.0.7")
    assert db.identities_only
    assert db.hash_known_hosts
    assert not db.identity_files_are_defaults
    assert db.host_key_alias == "cluster"
    assert db.user_known_hosts_files == (f"{home}/.ssh/known_db", "/etc/known_db")
    assert db.proxy_jump == (JumpHop("bastion", "ops", 2200), JumpHop("second"))
    hops = route(db)
    assert [(hop.hostname, hop.user, hop.port) for hop in hops] == [("bastion", "ops", 2200), ("second", "jump", 22)]
    assert resolve("web-1", config_file=config).hostname == "web-1.example.com"
    assert resolve("web-9", config_file=config).hostname == "web-9"
    bastion = resolve("bastion", config_file=config)
    assert (bastion.proxy_jump, bastion.proxy_command, bastion.identity_agent) == ((), None, None)
    assert bastion.identity_files_are_defaults
    other = resolve("db", config_file=config, user="root", port=22)
    assert (other.user, other.port, other.hostname) == ("root", 22, "10.0.0.7")
    assert resolve("me@db", config_file=config).user == "me"
    assert bastion.server_alive_interval == 30.0


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_settings_are_those_of_ssh(tmp_path: Path) -> None:
    check_example(write(tmp_path, EXAMPLE))


@pytest.mark.usefixtures("no_ssh")
def test_settings_are_the_same_without_ssh(tmp_path: Path) -> None:
    check_example(write(tmp_path, EXAMPLE))


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=id", "me@-x", "-x@db", "", "a b", "a;b", "$(id)", "a\nb", "x" * 300, "me@"]
)
@pytest.mark.parametrize("with_ssh", [True, False])
def test_a_name_that_could_be_an_option_or_a_command_is_refused(
    name: str, with_ssh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "bin"
    directory.mkdir()
    if with_ssh:
        spy = directory / "ssh"
        spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
        spy.chmod(0o700)
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(SettingsRefused):
        resolve(name, config_file=write(tmp_path, "Host x\n"))
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Match exec true", "Match exec"),
        ("Match tagged prod", "Match tagged"),
        ("Match localnetwork 10.0.0.0/8", "Match localnetwork"),
        ("Match canonical", "Match canonical"),
        ("Match final all", "Match final"),
        ("Match host db", "Match host"),
        ("Match user ops", "Match user"),
        ("Match version x", "Match version"),
        ("Match sessiontype shell", "Match sessiontype"),
        ("Match command x", "Match command"),
        ("Match originalhost=db", "Match originalhost=db"),
        ("Match", "Match without"),
        ("CertificateFile a\n", "CertificateFile"),
        ("CanonicalizeHostname yes", "canonical"),
        ("CanonicalDomains example.com", "not supported"),
        ("KnownHostsCommand /bin/keys %H", "knownhostscommand"),
        ("BindInterface eth1", "bindinterface"),
        ("ProxyUseFdpass yes", "proxyusefdpass"),
        ("Tag prod", "not supported"),
        ("NoSuchOption yes", "not supported"),
        ("HostName db.example.com # the new one", "comment"),
        ('UserKnownHostsFile "/a b" /c', "quotes"),
        ("HostName %n.example.com", "token"),
        ("User %u", "token"),
        ("ProxyJump %h.gate", "token"),
        ("IdentityFile /keys/%C", "%C"),
        ("Host [ab]", "pattern"),
        ('Host "db', "quote"),
        ("HostName", "missing"),
    ],
)
@pytest.mark.usefixtures("no_ssh")
def test_without_ssh_what_is_not_supported_is_refused_with_its_line(tmp_path: Path, line: str, why: str) -> None:
    config = write(tmp_path, f"# first\nHost *\n\n{line}\n")
    with pytest.raises(SettingsRefused) as raised:
        resolve("db", config_file=config)
    assert why.lower() in str(raised.value).lower()
    assert f"{config}:4" in str(raised.value) or why in ("knownhostscommand", "bindinterface", "proxyusefdpass", "%C")


@pytest.mark.usefixtures("no_ssh")
def test_without_ssh_an_include_is_refused_only_when_it_names_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_STATE_SECONDS", 0.0)
    assert resolve("db", config_file=write(tmp_path, f"Include {tmp_path}/none.d/*\n")).hostname == "db"
    included = write(tmp_path, "Host db\n HostName elsewhere\n", "more")
    with pytest.raises(SettingsRefused, match=r"config:2: include .*Include is not followed"):
        resolve("db", config_file=write(tmp_path, f"\nInclude {included}\n"))


@pytest.mark.usefixtures("no_ssh")
def test_without_ssh_it_is_said_too_which_algorithms_are_not_followed(tmp_path: Path) -> None:
    config = write(tmp_path, "Host db\n Ciphers aes128-ctr\n RequiredRSASize 3072\n")
    notes = resolve("db", config_file=config).notes
    assert [note.partition(" ")[0] for note in notes] == ["Ciphers", "RequiredRSASize"]


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_with_ssh_include_and_match_mean_what_they_mean(tmp_path: Path) -> None:
    write(tmp_path, "Host db\n HostName included\n", "more")
    config = write(tmp_path, f"Include {tmp_path}/more\nMatch host included exec true\n User found\n")
    assert (resolve("db", config_file=config).hostname, resolve("db", config_file=config).user) == ("included", "found")


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_what_ssh_would_do_and_we_do_not_is_said(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "Host a\n StrictHostKeyChecking no\n ForwardAgent yes\n GSSAPIAuthentication yes\n RemoteCommand top\n"
        " Ciphers aes128-ctr\n MACs hmac-sha2-256\n KexAlgorithms curve25519-sha256\n HostKeyAlgorithms ssh-ed25519\n"
        " RequiredRSASize 3072\n"
        "Host b\n KnownHostsCommand /bin/echo %H\nHost c\n ProxyUseFdpass yes\nHost d\n BindInterface lo\n",
    )
    notes = " ".join(resolve("a", config_file=config).notes)
    for word in ("StrictHostKeyChecking", "ForwardAgent", "GSSAPI", "RemoteCommand"):
        assert word in notes
    for word in ("Ciphers", "MACs", "KexAlgorithms", "HostKeyAlgorithms", "RequiredRSASize"):
        assert f"{word} is not followed" in notes
        assert word not in " ".join(resolve("e", config_file=config).notes)
    for name in "bcd":
        with pytest.raises(SettingsRefused, match="cannot be done here"):
            resolve(name, config_file=config)


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_a_mistake_in_the_configuration_is_told_with_its_line(tmp_path: Path) -> None:
    config = write(tmp_path, "Host db\n  Prot 22\n")
    with pytest.raises(SettingsRefused, match=r"(?is)config.*line 2.*prot"):
        resolve("db", config_file=config)


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_a_match_exec_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    config = write(tmp_path, f'Match exec "echo $$ > {tmp_path}/pid; sleep 60; true"\n User x\n')
    started = time.monotonic()
    with pytest.raises(SettingsRefused, match="did not answer within 1 s"):
        resolve("db", config_file=config, deadline_seconds=1.0)
    assert time.monotonic() - started < 4
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 3
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < end, "the command of Match exec is still running"
        time.sleep(0.05)


def test_an_ssh_that_is_not_openssh_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\necho Dropbear\n")
    (tmp_path / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SettingsRefused, match="did not say hostname"):
        resolve("db", config_file=write(tmp_path, ""))


def counting_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` that answers -G and counts how often it was asked."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "ssh"
    script.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/asked\nfor name; do :; done\n"
        'printf "hostname %s\\nuser u\\nport 22\\n" "$name"\n'
    )
    script.chmod(0o700)
    monkeypatch.setenv("PATH", str(directory))
    return tmp_path / "asked"


def test_an_answer_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counting_ssh(tmp_path, monkeypatch)
    included = write(tmp_path, "Host x\n", "more")
    config = write(tmp_path, f"Include {included}\n")
    monkeypatch.setattr(cache, "_STATE_SECONDS", 0.0)
    for _ in range(3):
        resolve("db", config_file=config)
    assert asked.read_text().count("x") == 1
    included.write_text("Host y\n User z\n")
    resolve("db", config_file=config)
    assert asked.read_text().count("x") == 2


def test_an_answer_that_was_asked_before_an_edit_is_not_kept_as_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counting_ssh(tmp_path, monkeypatch)
    monkeypatch.setattr(cache, "_STATE_SECONDS", 0.0)
    config, real = write(tmp_path, "Host x\n"), ssh_settings._ask_ssh

    def edited_meanwhile(*arguments: Any) -> str:
        answer = real(*arguments)
        config.write_text("Host y\n User z\n")
        return answer

    monkeypatch.setattr(ssh_settings, "_ask_ssh", edited_meanwhile)
    resolve("db", config_file=config)
    monkeypatch.setattr(ssh_settings, "_ask_ssh", real)
    resolve("db", config_file=config)
    assert asked.read_text().count("x") == 2


def test_the_next_process_needs_no_ssh_and_a_file_that_others_can_write_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counting_ssh(tmp_path, monkeypatch)
    config = write(tmp_path, "Host db\n")
    first = resolve_many([f"host-{number}" for number in range(20)], config_file=config)
    assert asked.read_text().count("x") == 20
    cache.forget()
    assert resolve_many(first, config_file=config) == first
    assert asked.read_text().count("x") == 20
    stored = next((tmp_path / "cache" / "runbooks").glob("*.json"))
    assert stored.stat().st_mode & 0o077 == 0
    for damage in (
        lambda: stored.chmod(0o666),
        lambda: stored.write_text("{"),
        lambda: stored.write_text('{"identity": []}'),
    ):
        stored.chmod(0o600)
        damage()
        cache.forget()
        assert resolve("host-1", config_file=config) == first["host-1"]
    assert asked.read_text().count("x") == 23


def test_the_answers_of_a_forgotten_configuration_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting_ssh(tmp_path, monkeypatch)
    old = tmp_path / "cache" / "runbooks" / "ssh-settings-0123456789abcdef.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (0, 0))
    resolve_many(["db"], config_file=write(tmp_path, "Host db\n"))
    assert not old.exists()
    assert len(list(old.parent.glob("*.json"))) == 1


def test_an_answer_that_rests_on_a_command_is_not_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting_ssh(tmp_path, monkeypatch)
    resolve_many(["db"], config_file=write(tmp_path, "Match exec true\n User x\n"))
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_thousand_kept_answers_are_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting_ssh(tmp_path, monkeypatch)
    config = write(tmp_path, "Host db\n")
    resolve("db", config_file=config)
    started = time.process_time()
    for _ in range(1000):
        resolve("db", config_file=config)
    assert time.process_time() - started < 0.2


@pytest.mark.lab
@pytest.mark.usefixtures("ssh")
def test_two_hundred_names_are_resolved_in_seconds_and_again_in_milliseconds(tmp_path: Path) -> None:
    names = [f"host-{number}" for number in range(200)]
    config = write(tmp_path, "".join(f"Host {name}\n HostName {name}.example.com\n" for name in names))
    started = time.monotonic()
    first = resolve_many(names, config_file=config)
    assert time.monotonic() - started < 20
    cache.forget()
    started = time.process_time()
    assert resolve_many(names, config_file=config) == first
    assert time.process_time() - started < 0.3


def test_a_route_in_a_circle_is_refused(tmp_path: Path, no_ssh: None) -> None:  # noqa: ARG001
    config = write(tmp_path, "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump a\n")
    with pytest.raises(SettingsRefused, match="circle"):
        route(resolve("a", config_file=config))


def test_the_first_hop_keeps_its_own_way_and_later_hops_do_not(tmp_path: Path, no_ssh: None) -> None:  # noqa: ARG001
    config = write(
        tmp_path, "Host db\n ProxyJump one,two\nHost one\n ProxyJump zero\nHost two\n ProxyJump ignored\nHost zero\n"
    )
    assert [hop.ssh_name for hop in route(resolve("db", config_file=config))] == ["zero", "one", "two"]


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        ("bastion", [JumpHop("bastion")]),
        ("ops@bastion:22,[::1]:2222", [JumpHop("bastion", "ops", 22), JumpHop("::1", None, 2222)]),
        ("ssh://ops@bastion:22", [JumpHop("bastion", "ops", 22)]),
        ("me@corp@bastion", [JumpHop("bastion", "me@corp")]),
        ("fe80::1", [JumpHop("fe80::1")]),
    ],
)
def test_jump_hosts_are_read(text: str, hops: list[JumpHop]) -> None:
    assert list(parse_jump("db", text)) == hops


@pytest.mark.parametrize("text", ["", "a,,b", "a:x", "a:99999999", "@b"])
def test_a_jump_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsRefused):
        parse_jump("db", text)


def test_paths_with_spaces_survive_the_output_of_ssh() -> None:
    assert split_files("/root/my kh /root/.ssh/known_hosts ~/x y") == ["/root/my kh", "/root/.ssh/known_hosts", "~/x y"]
    assert split_files(None) == []


def test_the_agent_is_used_only_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("MY_AGENT", "/run/mine")

    def agent(value: str | None) -> str | None:
        options = parse_output("hostname h\nuser u\nport 22\n" + (f"identityagent {value}\n" if value else ""))
        return from_options("h", options).identity_agent

    assert agent(None) is None
    assert agent("none") is None
    assert agent("SSH_AUTH_SOCK") == "/run/agent"
    assert agent("$MY_AGENT") == "/run/mine"
    assert agent("${MY_AGENT}.sock") == "/run/mine.sock"
    assert agent("~/agent") == f"{home_directory()}/agent"
    with pytest.raises(SettingsRefused, match="environment has no MISSING"):
        agent("${MISSING}")


def test_tokens_of_paths_are_expanded() -> None:
    options = parse_output(
        "hostname h.example\nuser u\nport 2222\nidentityfile /k/%%/%h/%n/%p/%r/%u/%i/%L/%k\nproxycommand nc %h %p\n"
    )
    found = from_options("db", options)
    local = socket.gethostname().partition(".")[0]
    me = (
        from_options("db", parse_output("hostname h\nuser u\nport 22\nidentityfile %u"))
        .identity_files[0]
        .rpartition("/")[2]
    )
    assert found.identity_files == (f"/k/%/h.example/db/2222/u/{me}/{os.getuid()}/{local}/db",)
    assert found.proxy_command == "nc h.example 2222"


def test_the_concrete_aliases_are_listed_through_includes(tmp_path: Path) -> None:
    write(tmp_path, 'Host "inner one" tc-db-01\n', "more")
    config = write(
        tmp_path, f"Host tc-* !x -bad\nHost tc-db-01 tc-web-01\n  Include {tmp_path}/more\nHost=last # end\n"
    )
    found = list_hosts(str(config))
    assert [alias.name for alias in found] == ["tc-db-01", "tc-web-01", "inner one", "last"]
    assert (found[0].path, found[0].number) == (str(config), 2)


def test_a_configuration_that_includes_itself_ends_in_a_message(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Include {config}\n")
    with pytest.raises(UsageError, match="circle"):
        list_hosts(str(config))
    with pytest.raises(UsageError, match="cannot be read"):
        list_hosts(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ("a", "b")),
        ('"a b" c', ("a b", "c")),
        ("a # b", ("a",)),
        ("a#b", ("a#b",)),
        ("a\\ b", ("a b",)),
        ("'a\"b'", ('a"b',)),
        ('""', ("",)),
    ],
)
def test_arguments_are_split_as_ssh_splits_them(text: str, words: tuple[str, ...]) -> None:
    assert split_arguments(text) == words


_NAMES = st.sampled_from(["db", "db-1", "web", "web.example"])
_PATTERNS = st.lists(st.sampled_from(["db", "db-*", "web*", "!web", "*", "d?", "other"]), min_size=1, max_size=3).map(
    " ".join
)
_SETTING = st.one_of(
    st.sampled_from(["1.2.3.4", "%h.example.org", "web"]).map(lambda value: f"HostName {value}"),
    st.sampled_from(["User ops", 'User "o ps"', "User=eve"]),
    st.integers(1, 65535).map(lambda value: f"Port {value}"),
    st.sampled_from(
        ["ProxyJump a", "ProxyJump none", "ProxyJump u@a:3,b", "ProxyCommand none", "ProxyCommand nc %h %p"]
    ),
    st.sampled_from(
        ["IdentityFile ~/k", 'IdentityFile "/a b"', "IdentityFile /k/%r/%h", "IdentityFile none", "IdentitiesOnly yes"]
    ),
    st.sampled_from(
        ["UserKnownHostsFile /a /b", "UserKnownHostsFile none", "UserKnownHostsFile ~/kh", "HashKnownHosts yes"]
    ),
    st.sampled_from(
        ["HostKeyAlias Foo", "CheckHostIP yes", "ConnectTimeout 5", "AddressFamily inet6", "PubkeyAuthentication no"]
    ),
    st.sampled_from(
        ["IdentityAgent none", "IdentityAgent SSH_AUTH_SOCK", "IdentityAgent ~/agent", "RevokedHostKeys /r"]
    ),
)
_BLOCK = st.tuples(
    st.one_of(
        _PATTERNS.map(lambda value: f"Host {value}"),
        st.sampled_from(
            ["Match all", "Match originalhost web*,!web", "Match !originalhost db", "Match localuser root,x"]
        ),
    ),
    st.lists(_SETTING, max_size=4),
).map(lambda block: "\n  ".join([block[0], *block[1]]))


@pytest.mark.lab
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(_SETTING, max_size=2), blocks=st.lists(_BLOCK, max_size=4), name=_NAMES)
def test_without_ssh_the_answer_is_the_same_or_a_refusal(
    tmp_path: Path, before: list[str], blocks: list[str], name: str
) -> None:
    assert shutil.which("ssh"), "this test needs the package openssh-client"
    config = write(tmp_path, "\n".join([*before, *blocks]) + "\n")
    output = subprocess.run(
        ["ssh", "-G", "-T", "-F", config, name], capture_output=True, text=True, timeout=20, check=True
    )

    def comparable(found: SshSettings) -> SshSettings:
        identities = tuple(path for path in found.identity_files if "/.ssh/id_" not in path)
        return replace(found, identity_files=identities, config_file=None, identity_files_are_defaults=False)

    printed = ssh_settings._set_by_hand(str(shutil.which("ssh")), parse_output(output.stdout))
    theirs = comparable(from_options(name, printed))
    from runbooks_lib.hosts.ssh_settings_fallback import read_options

    try:
        options = read_options(name, str(config), user=None, port=None)
    except SettingsRefused as error:
        if "both ProxyJump and ProxyCommand" in str(error) or "second ProxyCommand" in str(error):
            return
        raise
    assert comparable(from_options(name, options)) == theirs
