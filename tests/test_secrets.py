"""Secrets are read through references and come out of nothing: in no form, on no way, in no message."""

import base64
import html
import json
import os
import re
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runbooks_lib import secrets
from runbooks_lib.errors import ExitCode, UsageError

AWKWARD = [
    "correct-horse-battery",
    "p@ss/w0rd+&=?#",
    "quo\"te's and \\backslash",
    "zwölf Äpfel €",
    "<b>&amp;</b>",
    "line one of it\nline two of it",
    "100%s {braces} $HOME",
    "1234",
]


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    secrets.forget()
    yield
    secrets.forget()


def test_a_reference_is_read_from_the_environment_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_SECRET", "hunter2-hunter2")
    assert secrets.resolve("env:DB_SECRET") == "hunter2-hunter2"
    assert secrets.redact("with hunter2-hunter2.") == "with ***."


def test_a_reference_is_read_from_a_file_without_its_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-a-file\n")
    path.chmod(0o600)
    assert secrets.resolve(f"file:{path}") == "from-a-file"
    assert secrets.redact(b"\xffa from-a-file b") == b"\xffa *** b"


@pytest.mark.parametrize("secret", AWKWARD)
def test_every_form_in_which_a_secret_escapes_is_masked(secret: str) -> None:
    secrets.register(secret)
    data = secret.encode()
    forms = [
        secret,
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        json.dumps(json.dumps(secret)),
        repr(secret),
        ascii(secret),
        repr(data),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quote(secret, safe="")),
        html.escape(secret),
        html.escape(secret, quote=False),
        html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        shlex.quote(secret),
        data.hex(),
        data.hex().upper(),
    ]
    for form in forms:
        masked = secrets.redact(f"before {form} after")
        assert form.strip("'\"") not in masked, form
        assert "***" in masked
        assert masked.startswith("before ")
        assert masked.endswith(" after")


@pytest.mark.parametrize("secret", AWKWARD)
@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_masked_in_every_alignment(secret: str, before: bytes, encode: object) -> None:
    secrets.register(secret)
    encoded = encode(before + secret.encode() + b"tail").decode()  # type: ignore[operator]
    masked = secrets.redact(encoded)
    assert "***" in masked
    # What is left of the text is no longer enough to read more than one byte of it.
    left = max(masked.split("***"), key=len)
    assert secret.encode()[1:-1] not in base64.urlsafe_b64decode(left.replace("+", "-").replace("/", "_") + "===")


def test_overlapping_secrets_leave_no_end_of_the_longer_one() -> None:
    secrets.register("password1")
    secrets.register("1hunter2hunter2")
    secrets.register("word1hun")
    assert secrets.redact("x password1hunter2hunter2 y") == "x *** y"


def test_a_secret_of_several_lines_is_masked_line_by_line_too() -> None:
    secrets.register("-----BEGIN X-----\nMIIEvQIBADANBgkq\nAoIBAQC7VJTUt9Us\n-----END X-----")
    assert secrets.redact("in a traceback: MIIEvQIBADANBgkq") == "in a traceback: ***"


@given(st.text(min_size=4, max_size=30), st.text(max_size=60), st.text(max_size=60))
def test_no_text_keeps_a_registered_secret(secret: str, before: str, after: str) -> None:
    assume("*" not in secret)  # what the mask itself consists of
    secrets.forget()
    secrets.register(secret)
    masked = secrets.redact(before + secret + after, patterns=False)
    assert secret not in masked


def test_redacting_twice_changes_nothing_more() -> None:
    secrets.register("correct-horse")
    once = secrets.redact("a correct-horse, password=hunter22 and //u:pw@h")
    assert secrets.redact(once) == once


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mysqld --password=hunter2 --port=1", "mysqld --password=*** --port=1"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("postgres://me:hunter2@db/x", "postgres://me:***@db/x"),
        ("postgres://me:hunt@r2@db/x", "postgres://me:***@db/x"),
        ("PGPASSWORD='hunter 2' pg_dump", "PGPASSWORD='***' pg_dump"),
        ('password="hunter2"', 'password="***"'),
        ("user=repl password = 'a\\'b c' host=h", "user=repl password = '***' host=h"),
        ("password=&#x27;hunter 2&#x27; host=h", "password=&#x27;***&#x27; host=h"),
        (r'"password=\"hunter 2\" host=h"', r'"password=\"***\" host=h"'),
        ("cut off: password='hunt", "cut off: password='***"),
        ("mysql --password=a&b;c,d) -e x", "mysql --password=*** -e x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("key AKIAIOSFODNN7EXAMPLE!", "key ***!"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
        ("-----BEGIN PRIVATE KEY-----\\nMIIE", "-----BEGIN PRIVATE KEY-----***"),
    ],
)
def test_narrow_patterns_mask_what_hosts_say_of_themselves(text: str, masked: str) -> None:
    assert secrets.redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3:5432",
        "http://host:8080/path",
        "http://host:8080/path@x",
        "text = 'password=' + shown\nprint(text)",
        "deadbeef" * 8,
        "passwords are long",
        "token ring",
        "::1",
        "a@b.example",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert secrets.redact(text) == text


def test_whoever_registers_a_value_that_another_is_telling_waits_until_it_is_told() -> None:
    begun, may = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        begun.set()
        may.wait(30)

    secrets._listeners.append(slow)
    ends: list[str] = []
    first = threading.Thread(target=lambda: (secrets.register("correct-horse"), ends.append("first")))
    second = threading.Thread(target=lambda: (secrets.register("correct-horse"), ends.append("second")))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.2)
    assert second.is_alive(), "the listener has not got it yet"
    may.set()
    first.join()
    second.join()
    assert sorted(ends) == ["first", "second"]


def test_patterns_can_be_chosen_and_an_unknown_one_is_told() -> None:
    secrets.configure(["private key"])
    assert secrets.redact("password=hunter2") == "password=hunter2"
    with pytest.raises(UsageError, match="no such pattern: x"):
        secrets.configure(["x"])


@pytest.mark.parametrize(
    "reference", ["hunter2-hunter2", "env:", "env:A B", "vault:x", "", "ENV:HOME", "env:LD-PRELOAD", "file:"]
)
def test_what_is_no_reference_is_refused_and_not_repeated(reference: str) -> None:
    with pytest.raises(UsageError) as refused:
        secrets.resolve(reference)
    assert refused.value.exit_code == ExitCode.USAGE
    assert "hunter2" not in str(refused.value)


def test_short_and_empty_secrets_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHORT", "xyz")
    with pytest.raises(UsageError, match="shorter than 4") as refused:
        secrets.resolve("env:SHORT")
    assert "xyz" not in str(refused.value)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "empty").chmod(0o600)
    with pytest.raises(UsageError, match="empty"):
        secrets.resolve(f"file:{tmp_path / 'empty'}")
    with pytest.raises(UsageError, match="not set"):
        secrets.resolve("env:SURELY_NOT_SET")


def test_bad_files_are_refused_and_a_fifo_does_not_hold_us(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        secrets.resolve(f"file:{tmp_path / 'none'}")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        secrets.resolve(f"file:{tmp_path / 'fifo'}")
    binary = tmp_path / "binary"
    binary.write_bytes(b"hunter2\xff\xfe")
    binary.chmod(0o600)
    with pytest.raises(UsageError, match="not UTF-8") as refused:
        secrets.resolve(f"file:{binary}")
    assert refused.value.__cause__ is None
    big = tmp_path / "big"
    big.write_bytes(b"x" * 70_000)
    big.chmod(0o600)
    with pytest.raises(UsageError, match="larger"):
        secrets.resolve(f"file:{big}")


def test_a_file_that_everybody_can_read_is_refused_unless_a_directory_shuts_them_out() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        place = Path(made)
        path = place / "key"
        path.write_text("hunter2-hunter2")
        path.chmod(0o644)
        place.chmod(0o700)
        assert secrets.resolve(f"file:{path}") == "hunter2-hunter2"
        place.chmod(0o755)
        with pytest.raises(UsageError, match="every user") as refused:
            secrets.resolve(f"file:{path}")
    assert "chmod 600" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_environment_s_own_secrets_are_masked() -> None:
    secrets.register_environment(
        {
            "GITHUB_TOKEN": "ghp_abcdefgh",
            "PASSWORD_FILE": "/etc/motd-file",
            "HOME": "/home/me-myself",
            "API_KEY": "short",
        }
    )
    assert secrets.redact("ghp_abcdefgh /etc/motd-file /home/me-myself short") == (
        "*** /etc/motd-file /home/me-myself short"
    )


def test_another_process_knows_a_secret_before_register_returns() -> None:
    ours, theirs = socket.socketpair()
    heard: list[str] = []

    def listen() -> None:
        # The other process, as a thread: the same protocol with a registry of its own.
        with theirs, theirs.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                heard.append(stream.read(int.from_bytes(head, "big")).decode())
                theirs.sendall(b"k")

    listener = threading.Thread(target=listen)
    listener.start()
    secrets.register("known-before")
    secrets.send_to(ours)
    assert heard == ["known-before"]
    secrets.register("zwölf-Äpfel")
    assert heard == ["known-before", "zwölf-Äpfel"]
    ours.close()
    listener.join(5)
    secrets.register("listener-is-gone")  # not an error, and not a wait
    assert secrets.redact("listener-is-gone") == "***"


def test_what_is_received_is_masked_here() -> None:
    ours, theirs = socket.socketpair()
    receiver = threading.Thread(target=secrets.receive_from, args=(theirs,))
    receiver.start()
    value = b"told-by-the-kernel"
    ours.sendall(len(value).to_bytes(4, "big") + value)
    assert ours.recv(1) == b"k"
    assert secrets.redact("told-by-the-kernel") == "***"
    ours.close()
    receiver.join(5)
    assert not receiver.is_alive()


def test_a_megabyte_is_masked_quickly() -> None:
    for number in range(10):
        secrets.register(f"secret-value-{number}-zzz")
    text = "Lorem ipsum dolor 'sit' amet consectetur <b>x</b>\n" * 21_000
    begin = time.process_time()
    assert secrets.redact(text) == text
    assert time.process_time() - begin < 2  # 0.15 s measured


def test_a_megabyte_full_of_secrets_is_masked_too() -> None:
    secrets.register("aaaa")
    begin = time.process_time()
    assert secrets.redact("a" * 1_000_000) == "***"
    assert time.process_time() - begin < 10
