"""known_hosts: read whole, judged as OpenSSH judges, never slow."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbooks_lib.hosts.host import HostKeyChanged, HostKeyUnknown, SettingsRefused
from runbooks_lib.hosts.known_hosts import KnownHosts, Verdict, fingerprint, lookup_name
from runbooks_lib.hosts.known_hosts_file import glob_match, hash_name, parse, walk


def blob(seed: int, key_type: str = "ssh-ed25519") -> bytes:
    name = key_type.encode()
    body = seed.to_bytes(32, "big") if key_type == "ssh-ed25519" else seed.to_bytes(64, "big")
    return len(name).to_bytes(4, "big") + name + len(body).to_bytes(4, "big") + body


def text(seed: int, key_type: str = "ssh-ed25519") -> str:
    return f"{key_type} {base64.b64encode(blob(seed, key_type)).decode()}"


def verdict(
    tmp_path: Path, content: str | bytes, host: str = "db", port: int = 22, seed: int = 1, **more: str
) -> Verdict:
    path = tmp_path / "known_hosts"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return KnownHosts.load([path]).check(host, port, "ssh-ed25519", blob(seed), **more)


@pytest.mark.parametrize(
    ("line", "host", "port", "state"),
    [
        ("db {1}", "db", 22, "known"),
        ("db,10.0.0.1 {1}", "10.0.0.1", 22, "known"),
        ("DB.Example.COM {1}", "db.example.com", 22, "known"),
        ("db.example.com {1}", "DB.example.COM", 22, "known"),
        ("db  {1}", "db", 22, "known"),
        ("\t db\t {1} a comment  with # in it", "db", 22, "known"),
        ("*.example.com {1}", "db.example.com", 22, "known"),
        ("*.example.com,!db.example.com {1}", "db.example.com", 22, "unknown"),
        ("!db.example.com,*.example.com {1}", "db.example.com", 22, "unknown"),
        ("!other {1}", "db", 22, "unknown"),
        ("db-? {1}", "db-1", 22, "known"),
        ("db-? {1}", "db-12", 22, "unknown"),
        ("[db]:2222 {1}", "db", 2222, "known"),
        ("[db]:2222 {1}", "db", 22, "unknown"),
        ("[db]:* {1}", "db", 2222, "known"),
        ("[d]b {1}", "db", 22, "unknown"),
        ("db {1}", "db", 2222, "known"),  # ssh falls back to the bare name …
        ("db {2}", "db", 2222, "unknown"),  # … only for a key that matches there
        ("[db]:2222 {2}\ndb {1}", "db", 2222, "changed"),  # … and only while nothing is known for the port
        ("db {2}", "db", 22, "changed"),
        ("db {2}\ndb {1}", "db", 22, "known"),
        ("other {1}", "db", 22, "unknown"),
        ("@revoked * {1}\ndb {1}", "db", 22, "revoked"),
        ("db {1}\n@revoked * {1}", "db", 22, "revoked"),
        ("@revoked db {1}\n[db]:2222 {1}", "db", 2222, "revoked"),
        ("@revoked other {1}\ndb {1}", "db", 22, "known"),
        ("@revoked db {2}\ndb {1}", "db", 22, "known"),
        ("@revoked db {2}", "db", 22, "unknown"),
        ("@cert-authority *.example.com {9}", "db.example.com", 22, "ca-only"),
        ("@cert-authority *.example.com {1}", "db.example.com", 22, "ca-only"),
        ("@cert-authority * {9}\ndb {1}", "db", 22, "known"),
        ("@cert-authority * {9}\ndb {2}", "db", 22, "changed"),
        ("@cert-authority other {9}", "db", 22, "unknown"),
        ("@cert-authority @revoked db {1}", "db", 22, "unknown"),
        ("#db {1}", "db", 22, "unknown"),
        ("", "db", 22, "unknown"),
    ],
)
def test_a_key_is_judged_as_openssh_judges_it(tmp_path: Path, line: str, host: str, port: int, state: str) -> None:
    content = re.sub(r"\{(\d)\}", lambda match: text(int(match[1])), line)
    assert verdict(tmp_path, content, host, port).state == state


@pytest.mark.parametrize("port", [22, 2222])
def test_a_hashed_name_is_found(tmp_path: Path, port: int) -> None:
    name = lookup_name("db.example.com", port)
    line = f"{hash_name(name, os.urandom(20))} {text(1)}\n"
    assert verdict(tmp_path, line, "DB.example.com", port).state == "known"
    assert verdict(tmp_path, line, "db.example.com", port, seed=2).state == "changed"
    assert verdict(tmp_path, line, "db.example.org", port).state == "unknown"


def test_an_alias_is_looked_up_without_a_port(tmp_path: Path) -> None:
    assert verdict(tmp_path, f"cluster-key {text(1)}\n", "10.0.0.9", 2222, alias="Cluster-Key").state == "known"
    assert verdict(tmp_path, f"10.0.0.9 {text(1)}\n", "10.0.0.9", 22, alias="cluster-key").state == "unknown"


def test_another_key_for_the_address_is_a_change(tmp_path: Path) -> None:
    found = verdict(tmp_path, f"db {text(1)}\n10.0.0.1 {text(2)}\n", address="10.0.0.1")
    assert found.state == "changed"
    assert found.address_line is not None
    assert found.address_line.number == 2
    error = found.error("db")
    assert isinstance(error, HostKeyChanged)
    assert "for the address" in str(error)
    assert "-R '10.0.0.1'" in str(error)
    assert verdict(tmp_path, f"db {text(1)}\n10.0.0.1 {text(1)}\n", address="10.0.0.1").state == "known"
    assert verdict(tmp_path, f"db {text(1)}\n", address="10.0.0.1").state == "known"


def test_bad_lines_are_told_with_their_place_and_cost_no_other_line(tmp_path: Path) -> None:
    lines = [
        b"db",
        b"db ssh-ed25519",
        b"db ssh-ed25519 not*base64",
        b"db ssh-ed25519 " + base64.b64encode(blob(1, "ssh-rsa")),
        b"db ssh-ed25519 " + base64.b64encode(blob(1)[:-1]),
        b"db 2048 65537 1234567890",
        b"@unheard-of db " + text(1).encode(),
        b"|1|short|hash " + text(1).encode(),
        b"db\0x " + text(1).encode(),
        b"good\xe9 " + text(1).encode() + b" caf\xe9",
        b"db " + text(1).encode() + b"\r",
    ]
    path = tmp_path / "known_hosts"
    path.write_bytes(b"\n".join(lines))
    known = KnownHosts.load([path])
    assert [int(warning.split(":")[1]) for warning in known.warnings] == list(range(1, 10))
    assert all(warning.startswith(f"{path}:") for warning in known.warnings)
    assert known.check("db", 22, "ssh-ed25519", blob(1)).state == "known"
    assert len(known) == 2


def test_several_files_count_together_and_missing_ones_are_fine(tmp_path: Path) -> None:
    (tmp_path / "user").write_text(f"db {text(2)}\n")
    (tmp_path / "global").write_text(f"db {text(1)}\n@revoked * {text(3)}\n")
    known = KnownHosts.load([tmp_path / "user", tmp_path / "missing", tmp_path / "global"])
    assert known.check("db", 22, "ssh-ed25519", blob(1)).state == "known"
    assert known.check("db", 22, "ssh-ed25519", blob(3)).state == "revoked"
    assert [line.place for line in known.lines_for("db", 22)] == [
        f"{tmp_path}/user:1",
        f"{tmp_path}/global:1",
        f"{tmp_path}/global:2",
    ]
    assert known.warnings == ()


def test_a_directory_in_place_of_a_file_is_a_warning(tmp_path: Path) -> None:
    known = KnownHosts.load([tmp_path])
    assert known.check("db", 22, "ssh-ed25519", blob(1)).state == "unknown"
    assert "not read" in known.warnings[0]


def test_other_key_types_are_told_so_that_a_second_handshake_can_ask_for_them(tmp_path: Path) -> None:
    found = verdict(tmp_path, f"db {text(1, 'ssh-rsa')}\ndb {text(2, 'ecdsa-sha2-nistp256')}\n")
    assert found.state == "changed"
    assert found.known_types == ("ssh-rsa", "ecdsa-sha2-nistp256")
    known = KnownHosts.load([tmp_path / "known_hosts"])
    assert known.likely_key_types("db", 22) == ("ssh-rsa", "ecdsa-sha2-nistp256")
    assert known.likely_key_types("db", 2222) == ("ssh-rsa", "ecdsa-sha2-nistp256")
    assert known.likely_key_types("nobody", 22) == ()


def test_the_signature_algorithm_counts_as_the_key_type(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"db {text(1, 'ssh-rsa')}\n")
    found = KnownHosts.load([tmp_path / "known_hosts"]).check("db", 22, "rsa-sha2-512", blob(1, "ssh-rsa"))
    assert (found.state, found.key_type) == ("known", "ssh-rsa")


def test_a_refusal_says_what_is_known_where_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    changed = verdict(tmp_path, f"# mine\n[db]:2222 {text(2)}\n", port=2222).error("tc-db-01")
    assert isinstance(changed, HostKeyChanged)
    assert changed.fingerprint == fingerprint(blob(1))
    for part in (
        fingerprint(blob(1)),
        fingerprint(blob(2)),
        f"{path}:2",
        f"ssh-keygen -f '{path}' -R '[db]:2222'",
        "tc-db-01",
    ):
        assert part in str(changed)
    unknown = verdict(tmp_path, f"other {text(1)}\n").error("db")
    assert isinstance(unknown, HostKeyUnknown)
    assert unknown.kind == "host key unknown"
    assert "runbook hosts trust db" in str(unknown)
    assert "known as other" in str(unknown)
    authority = verdict(tmp_path, f"@cert-authority * {text(9)}\n").error("db")
    assert isinstance(authority, SettingsRefused)
    assert "cannot be checked here" in str(authority)
    revoked = verdict(tmp_path, f"@revoked * {text(1)}\n").error("db")
    assert isinstance(revoked, HostKeyChanged)
    assert "REVOKED" in str(revoked)
    assert f"{path}:1" in str(revoked)
    assert verdict(tmp_path, f"db {text(1)}\n").error("db") is None


def test_keys_of_a_revoked_host_keys_file_are_refused_everywhere(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"db {text(1)}\n")
    (tmp_path / "revoked").write_text(f"# lost in 2026\n{text(1)} old\n")
    known = KnownHosts.load([tmp_path / "known_hosts"], revoked_files=[tmp_path / "revoked"])
    found = known.check("db", 22, "ssh-ed25519", blob(1))
    assert found.state == "revoked"
    assert found.matched is not None
    assert found.matched.place == f"{tmp_path}/revoked:2"


@pytest.mark.parametrize("content", [None, b"SSHKRL\n\0\0\0\0\1"])
def test_revocations_that_cannot_be_read_refuse_everything(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "revoked").write_bytes(content)
    with pytest.raises(SettingsRefused, match="RevokedHostKeys"):
        KnownHosts.load([], revoked_files=[tmp_path / "revoked"])


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    assert verdict(tmp_path, f"db {text(1)}\n").state == "known"
    assert verdict(tmp_path, f"db {text(2)}\n").state == "changed"
    (tmp_path / "known_hosts").unlink()
    known = KnownHosts.load([tmp_path / "known_hosts"])
    assert known.check("db", 22, "ssh-ed25519", blob(1)).state == "unknown"


@pytest.mark.parametrize("hashed", [False, True])
def test_five_thousand_lines_cost_at_most_20_ms_to_load_and_to_check(hashed: bool) -> None:
    names = [f"host{number}.example.com" for number in range(5000)]
    first = [hash_name(name, os.urandom(20)) if hashed else name + f",10.0.0.{i}" for i, name in enumerate(names)]
    content = "".join(f"{name} {text(number)}\n" for number, name in enumerate(first)).encode()
    # The best of several, by the CPU clock: the figure is about this code, not about who else uses the machine.
    loads, checks = [], []
    for _ in range(15):
        started = time.process_time()
        parse("known_hosts", content)
        loads.append(time.process_time() - started)
    for attempt in range(15):
        known = KnownHosts.load([])
        known._files = (parse("known_hosts", content),)
        started = time.process_time()
        assert known.check(names[-1], 22, "ssh-ed25519", blob(4999)).state == "known"
        assert known.check(names[-1 - attempt], 22, "ssh-ed25519", blob(9999)).state == "changed"
        checks.append(time.process_time() - started)
    assert min(loads) <= 0.020, f"load {min(loads) * 1e3:.1f} ms"
    assert min(checks) <= 0.020, f"check {min(checks) * 1e3:.1f} ms"


def test_a_thousand_cloned_hosts_with_one_key_cost_no_more_than_one() -> None:
    content = "".join(
        f"host{number},10.0.{number // 250}.{number % 250} {text(1)}\n" for number in range(1000)
    ).encode()
    known = KnownHosts.load([])
    known._files = (parse("known_hosts", content),)
    started = time.process_time()
    for number in range(1000):
        assert known.check(f"host{number}", 22, "ssh-ed25519", blob(1)).state == "known"
    assert time.process_time() - started < 0.2


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_matches_as_its_regular_expression(pattern: str, name: str) -> None:
    expected = re.fullmatch("".join({"*": ".*", "?": "."}.get(char, char) for char in pattern), name) is not None
    assert glob_match(pattern.encode(), name.encode()) == expected


def test_a_pattern_made_to_backtrack_costs_nothing() -> None:
    started = time.process_time()
    assert not glob_match(b"*a" * 200 + b"b", b"a" * 1000)
    assert time.process_time() - started < 1.0


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail(content: bytes) -> None:
    file = parse("known_hosts", content)
    assert len(file.lines) + len(file.warnings) <= content.count(b"\n") + 1


_NAME = st.text("ab.-1", min_size=1, max_size=5)
_PART = st.one_of(_NAME, st.text("ab*?.!1", min_size=1, max_size=4), _NAME.map(lambda name: f"[{name}]:2222"))
_FIELD = st.one_of(
    st.lists(_PART, min_size=1, max_size=3).map(",".join),
    _NAME.map(lambda name: hash_name(name, b"0123456789abcdefghij")),
    _NAME.map(lambda name: hash_name(f"[{name}]:2222", b"0123456789abcdefghij")),
)
_KEY = st.one_of(st.integers(0, 3).map(text), st.sampled_from(["ssh-ed25519", "ssh-ed25519 AAAA", "ssh-foo AAAA", ""]))
_MARKER = st.sampled_from(["", "", "", "@revoked ", "@cert-authority  ", "@other ", "@revoked @revoked "])
_BLANK = st.sampled_from([" ", "  ", "\t"])
_LINE = st.one_of(
    st.tuples(_MARKER, _FIELD, _BLANK, _KEY, st.sampled_from(["", " me", "\r"])).map("".join),
    st.sampled_from(["", "# note", "   ", "a"]),
)


@pytest.mark.lab
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(_LINE, max_size=8), name=_NAME, with_port=st.booleans())
def test_the_lines_of_a_name_are_those_that_ssh_keygen_finds(
    tmp_path: Path, lines: list[str], name: str, with_port: bool
) -> None:
    assert shutil.which("ssh-keygen"), "this test needs the package openssh-client"
    path = tmp_path / "known_hosts"
    path.write_text("\n".join(lines) + "\n", newline="")
    wanted = f"[{name}]:2222" if with_port else name
    said = subprocess.run(
        ["ssh-keygen", "-l", "-F", wanted, "-f", path],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )
    found = re.findall(r"found: line (\d+) ?(CA|REVOKED)?", said.stdout)
    markers = {"": "", "CA": "@cert-authority", "REVOKED": "@revoked"}
    theirs = {(int(number), markers[marker]) for number, marker in found}
    ours = {(line.number, line.marker) for line in walk(parse("x", path.read_bytes()), wanted.encode())}
    assert ours == theirs
