"""SELinux, AppArmor, and a unit's sandbox. Neither of the first two is on where these tests run: SELinux's tools are
stand-ins that keep what they were told, AppArmor is a real profile's text with the kernel's answer written down."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.relocate_postgres import labels, prechecks
from runbooks_lib.runbook.check import Answer, ask
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Known

# chcon keeps a directory's context in a file in it; semanage keeps rules; matchpathcon goes by them.
STAND_INS = {
    "chcon": 'cp -- "${1#--reference=}/.context" "$3/.context"',
    "stat": 'for last; do :; done; case "$*" in *%C*) cat -- "$last/.context";; *) exec /usr/bin/stat "$@";; esac',
    "semanage": """case "$2" in
  -a) echo "$5 = $4" >>"$RULES";;
  -d) grep -vxF "$5 = $4" "$RULES" >"$RULES.new"; mv "$RULES.new" "$RULES";;
  -l) cat "$RULES";;
esac""",
    "matchpathcon": 'line=$(grep -F "$2 = " "$RULES") && cat -- "${line##* = }/.context" || '
    "echo system_u:object_r:default_t:s0",
}


@pytest.fixture
def selinux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / f"bin/{name}").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / f"bin/{name}").chmod(0o755)
    (tmp_path / "rules").touch()
    (tmp_path / "enforce").write_text("1")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old/.context").write_text("system_u:object_r:postgresql_db_t:s0\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("RULES", str(tmp_path / "rules"))
    monkeypatch.setattr(labels, "SELINUX", str(tmp_path))
    return tmp_path


def sh(text: str) -> int:
    return subprocess.run(["sh", "-c", labels.shell() + text], check=False).returncode


def test_a_new_directory_gets_the_old_one_s_context_and_a_rule_that_keeps_it(selinux: Path) -> None:
    pair = f"{word(selinux / 'old')} {word(selinux / 'new')}"
    assert sh(f"label {pair}") == 0
    assert "postgresql_db_t" in (selinux / "new/.context").read_text()
    assert sh(f"lasting x {pair}") == 1
    for _ in range(2):  # run again after having been cut off
        assert sh(f"rule x {pair}") == 0
    assert (selinux / "rules").read_text() == f"{selinux / 'new'} = {selinux / 'old'}\n"
    assert sh(f"lasting x {pair}") == 0
    for _ in range(2):
        assert sh(f"unrule x {pair}") == 0
    assert (selinux / "rules").read_text() == ""


def test_without_selinux_nothing_is_called(selinux: Path) -> None:
    (selinux / "enforce").unlink()
    for call in ("label /a /b", "rule x /a /b", "unrule x /a /b"):
        assert sh(call) == 0
    assert (selinux / "rules").read_text() == ""


# Begun as Debian's profile of MariaDB; of the kernel's answer, /proc/PID/attr/apparmor/current, two lines of a confined
# and an unconfined process (proc_pid_attr(5)).
PROFILE = """abi <abi/3.0>,
include <tunables/global>

/usr/sbin/mariadbd {
  include <abstractions/base>
  /var/lib/mysql/ r,
  /var/lib/mysql/** rwk,
  include if exists <local/usr.sbin.mariadbd>
}
"""


def asked(root: Path, current: str) -> tuple[Answer, str]:
    (root / "proc/7/attr/apparmor").mkdir(parents=True, exist_ok=True)
    (root / "proc/7/attr/apparmor/current").write_text(current)
    names = "T='/srv/new disk/mysql'; R=/; UNIT=x.service; runs() { pid=7; }; apart() { \"$@\" x x /srv/third; }\n"
    check = Check("x", lambda _: names + labels.check())
    observed = ask(LocalHost(), check, Known({}))
    return observed.answer, observed.evidence


@pytest.fixture
def apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "apparmor.d/local").mkdir(parents=True)
    (tmp_path / "apparmor.d/usr.sbin.mariadbd").write_text(PROFILE)
    monkeypatch.setattr(labels, "APPARMOR", str(tmp_path / "apparmor.d"))
    monkeypatch.setattr(labels, "PROCESSES", str(tmp_path / "proc"))
    return tmp_path


def test_a_server_that_nothing_confines_may_move(apparmor: Path) -> None:
    for current in ("unconfined\n", "/usr/sbin/mariadbd (complain)\n"):
        assert asked(apparmor, current)[0] is Answer.YES


def test_a_profile_that_lacks_the_new_places_is_told_with_the_lines_that_mend_it(apparmor: Path) -> None:
    answer, said = asked(apparmor, "/usr/sbin/mariadbd (enforce)\n")
    assert answer is Answer.NO
    command = said.partition("the profile /usr/sbin/mariadbd: ")[2].partition(" && apparmor_parser -r ")
    assert command[2] == f"{apparmor}/apparmor.d/usr.sbin.mariadbd"
    subprocess.run(["sh", "-c", command[0]], check=True)  # word for word
    own = (apparmor / "apparmor.d/local/usr.sbin.mariadbd").read_text()
    assert '"/srv/new disk/mysql/**" rwk,' in own
    assert '"/srv/third/" r,' in own
    assert asked(apparmor, "/usr/sbin/mariadbd (enforce)\n")[0] is Answer.YES


def test_a_profile_in_no_file_cannot_be_told(apparmor: Path) -> None:
    assert asked(apparmor, "snap.db.daemon (enforce)\n")[0] is Answer.CANNOT_TELL


# -- who starts the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "main", "said"),
    [
        ("", "", ""),
        ("postgresql@15-main.service", "4711", ""),
        ("postgresql@15-main.service", "0", ""),  # systemd does not know which of its processes is the main one
        ("postgresql@15-main.service", "", ""),
        ("patroni.service", "SELF", "patroni.service runs sleep"),
    ],
)
def test_a_server_that_another_program_runs_is_not_moved(
    unit: str, main: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postmaster.pid").write_text("4711\n/srv/db\n")
    with subprocess.Popen(["sleep", "600"]) as other:
        shown = str(other.pid) if main == "SELF" else main
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho {shown}\n")
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        names = f"R={word(str(tmp_path))}; UNIT={word(unit)}\n"
        started = prechecks._STARTED.replace("/run/systemd/system", str(tmp_path / "absent"))
        observed = ask(LocalHost(), Check("x", lambda _: names + started), Known({}))
        other.kill()
    assert observed.answer is (Answer.NO if said else Answer.YES), observed
    assert said in observed.evidence


# -- a unit's sandbox --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "target", "said"),
    [
        ({}, "/home/db", ""),
        ({"ProtectHome": "yes"}, "/srv/new", ""),
        ({"ProtectHome": "read-only"}, "/home/db", "ProtectHome=read-only: it cannot use /home/db"),
        ({"PrivateTmp": "yes"}, "/var/tmp/db", "PrivateTmp=yes: it sees no /var/tmp/db"),
        ({"ProtectSystem": "full"}, "/usr/local/db", "ProtectSystem=full: it cannot write /usr/local/db"),
        ({"ProtectSystem": "full"}, "/srv/new", ""),
        ({"ProtectSystem": "strict"}, "/srv/new", "give it ReadWritePaths=/srv/new in a drop-in first"),
        ({"ProtectSystem": "strict", "ReadWritePaths": "/var/lib/mysql -/srv"}, "/srv/new", ""),
        ({"InaccessiblePaths": "/mnt -/srv"}, "/srv/new", "may not write below /srv"),
    ],
)
def test_a_unit_s_sandbox_is_seen_before_the_move(
    unit: dict[str, str], target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl show` is a stand-in: as systemd.exec(5) names the settings, and as systemd 252 prints them."""
    cases = "\n".join(f"  {name}) echo {word(value)};;" for name, value in unit.items())
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\ncase "$3" in\n{cases}\n  *) echo;;\nesac\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    names = f"T={target}; UNIT=x.service; apart() {{ :; }}\n"
    observed = ask(LocalHost(), Check("x", lambda _: names + prechecks._SANDBOX), Known({}))
    assert observed.answer is (Answer.NO if said else Answer.YES), observed
    assert said in observed.evidence
