"""Any value survives the way into a shell, through a real one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib.runbook.quoting import bytes_of, shown, text_of, word, words

ANYTHING = st.binary(min_size=0, max_size=60).filter(lambda data: b"\0" not in data)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(ANYTHING, min_size=1, max_size=5))
def test_any_bytes_come_out_as_they_went_in(values: list[bytes]) -> None:
    script = f"printf '%s\\0' {words(*(text_of(value) for value in values))}"
    assert script.isascii()
    out = subprocess.run(["/bin/sh"], input=script.encode(), capture_output=True, check=True).stdout
    assert out.split(b"\0")[:-1] == values


@pytest.mark.lab
@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"]])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_every_shell_agrees(shell: list[str], locale: str) -> None:
    values = [b"", b"-n", b"-\xff", b"a\n\n", b"\n", b"%s\\n", b"'\"$`!*", "größe\n".encode(), bytes(range(1, 256))]
    script = f"printf '%s\\0' {words(*(text_of(value) for value in values))}"
    environment = {**os.environ, "LC_ALL": locale}
    out = subprocess.run(shell, input=script.encode(), capture_output=True, check=True, env=environment).stdout
    assert out.split(b"\0")[:-1] == values


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        word("a\0b")


def test_a_word_is_never_evaluated(tmp_path: Path) -> None:
    for hostile in ("$(touch x)", "`touch x`", "é$(touch x)", "';touch x;'", "\n touch x\n", "é'; touch x; '"):
        subprocess.run(["/bin/sh"], input=f": {word(hostile)}".encode(), cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


@given(data=ANYTHING)
def test_bytes_and_text_are_inverse(data: bytes) -> None:
    assert bytes_of(text_of(data)) == data


def test_what_is_shown_steers_no_terminal() -> None:
    assert shown("a\x1b[2Jb\nc\x9b\udcff") == "a\\x1b[2Jb\nc\\x9b\\udcff"
