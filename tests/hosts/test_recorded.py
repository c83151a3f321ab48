"""Recordings: made from a real host, played back exactly, and clear about what they do not hold."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import RecordingMissing, Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.hosts.recorded import RecordedHost

CAT = Script("cat; printf '\\377\\000' >&2; exit 4", name="cat")


def record(path: Path) -> RecordedHost:
    return RecordedHost(path, record=LocalHost("here"))


def test_a_recording_plays_what_the_host_said(tmp_path):
    path = tmp_path / "here.json"
    first = record(path).run(CAT, input="schön\n".encode())
    second = record(path).run(CAT, input=b"other\n")
    played = RecordedHost(path)
    assert played.name == "here"
    again = played.run(CAT, input="schön\n".encode())
    assert replace(again, duration_seconds=0) == replace(first, duration_seconds=0)
    assert played.run(CAT, input=b"other\n").stdout == second.stdout
    assert again.stderr == b"\xff\x00"
    assert again.exit_status == 4


def test_a_recording_holds_no_input_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "here.json"
    record(path).run(Script("cat >/dev/null"), input=b"canary-secret")
    assert "canary" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("script", "why"), [(CAT, "with this input"), (Script("other", name="other"), "other")])
def test_what_was_not_recorded_is_a_clear_error(tmp_path, script, why):
    path = tmp_path / "here.json"
    record(path).run(CAT, input=b"x")
    with pytest.raises(RecordingMissing, match=why) as caught:
        RecordedHost(path).run(script, input=b"y")
    assert "no host was asked" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "other", "host": "x", "answers": {}}', "\x00"])
def test_a_file_that_is_no_recording_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="no recording"):
        RecordedHost(path)


def test_a_missing_recording_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such recording"):
        RecordedHost(tmp_path / "none.json")


def test_a_damaged_answer_is_refused_when_it_is_asked_for(tmp_path):
    path = tmp_path / "here.json"
    record(path).run(CAT)
    document = json.loads(path.read_text())
    next(iter(document["answers"].values())).pop("stdout")
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="damaged"):
        RecordedHost(path).run(CAT)
