"""A journalctl of RHEL 7 (systemd 219), which cannot be had here: a stand-in that refuses short-unix as it does."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.facts import collect

# systemd 219's words and status for an unknown format; the rows are of the form in tests/facts/journal/short-iso.json.
JOURNALCTL = """#!/bin/sh
format=short boot=no lines=10
while [ $# -gt 0 ]; do
  case $1 in
  -o) format=$2; shift ;;
  -n) lines=$2; shift ;;
  -b) boot=$2; shift ;;
  esac
  shift
done
case $format in
short | short-iso | cat) ;;
*) echo "Unknown output '$format'." >&2; exit 1 ;;
esac
[ "$lines" = 0 ] && exit 0
if [ "$boot" = -1 ]; then
  echo '2023-07-26T05:55:54+0200 db1 systemd-journal[456]: Journal stopped'
else
  echo '2023-07-26T05:55:54+0200 db1 kernel: XFS (dm-7): log mount failed'
fi
"""
# A host whose /run holds a journal's socket and nothing else, seen by this process alone.
SHELL = """#!/bin/sh
exec unshare -m sh -c '
  mount -t tmpfs none /run && mkdir -p /run/systemd/journal
  python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\\"/run/systemd/journal/socket\\")"
  PATH={tools}:$PATH exec sh "$@"' sh "$@"
"""


@pytest.fixture
def old_host(tmp_path: Path, shell_host: Any) -> Any:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and a mount namespace of its own")
    for name, text in (("journalctl", JOURNALCTL), ("shell", SHELL.replace("{tools}", str(tmp_path)))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return shell_host((str(tmp_path / "shell"),))


def test_a_journal_older_than_short_unix_is_read_all_the_same(old_host: Any) -> None:
    found = collect.read_slow(old_host, ("kernel-log", "journal-use", "boots"), root=False)
    assert found.journal is not None
    (message,) = found.journal.require()
    assert (message.seconds, message.subject) == (1690343754.0, "disk")
    assert found.journal_use is not None
    reach = found.journal_use.require().reach_seconds
    assert reach is not None
    assert reach > 86400 * 365
    assert found.last_boot is not None
    if found.last_boot.known:  # only of a host booted in the last four hours
        assert found.last_boot.require().clean is True
