"""The texts that a move would run: from facts alone, the same each time, and quoted; parameters without sense."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures import relocate_directory
from runbooks_lib.procedures.relocate_postgres import RUNBOOK, fstab, placing, starting, switching
from runbooks_lib.procedures.relocate_postgres.apart import mapping_words
from runbooks_lib.procedures.relocate_postgres.cluster import Cluster, other_names, parse_cluster, server_arguments
from runbooks_lib.procedures.relocate_postgres.following import standby_arguments
from runbooks_lib.procedures.relocate_postgres.lasting import fstab_line
from runbooks_lib.procedures.relocate_postgres.placing import WAYS
from runbooks_lib.runbook.lint import runbook_mistakes
from runbooks_lib.runbook.run import target
from runbooks_lib.runbook.step import Known, NoUndo, Undo

FACTS: dict[str, Any] = {
    "real": "/srv/db/it is/main",
    "exe": "/usr/lib/postgresql/15/bin/postgres",
    "owner": "postgres",
    "group": "postgres",
    "port": "5432",
    "sockets": "/var/run/postgresql, /tmp",
    "arguments": ["postgres", "-D", "/srv/db/it is/main", "-c", "config_file=/etc/postgresql/15/main/postgresql.conf"],
    "environment": ["LANG=C.UTF-8", "TZ=Europe/Berlin $x"],
    "log": "/var/log/postgresql/a%b.log",
    "unit": "postgresql@15-main.service",
    "link": "",
    "wal": "",
    "identifier": "7712796750203512143",
    "version": 150014,
    "data_directory": "/srv/db/it is/main",
    "config_file": "/etc/postgresql/15/main/postgresql.conf",
    "tablespaces": [],
    "timeline": 1,
    "in_recovery": False,
}
PARAMETERS: dict[str, Any] = {
    "directory": "/srv/db/it is/main",
    "target": "/srv/new disk/main",
    "place_by": "symlink",
    "tablespaces": ["far away=/srv/third disk/far"],
    "wal": "/srv/third disk/wal",
    "backup": "this morning",
    "throttle_mb": 20,
    "most_io_pressure": 90,
    "pgbouncer_port": 6432,
    "tables": ["app.public.t"],
    "amcheck": True,
}
TABLESPACES = [
    {"oid": "16385", "name": "far away", "location": "/srv/db/far"},
    {"oid": "16390", "name": "cold", "location": "/srv/co=ld/it's"},
]
LOOKED = {
    "cluster": FACTS | {"tablespaces": TABLESPACES},
    "size_bytes": 10**9,
    "apart_bytes": {"pg_tblspc/16385": 1, "pg_tblspc/16390": 2},
    "rates": {
        ".": {
            "bytes": 1e9,
            "small": 9.0,
            "large_bytes": 1e9,
            "small_seconds": 0.1,
            "bytes_per_second": 1e6,
            "target_bytes_per_second": None,
        }
    },
    "settings": ["a=1"],
    "tables": ["app.public.t: 1 rows, sum 2"],
}
DISKS: dict[str, Any] = {
    "mount": "",
    "source": "",
    "kind": "",
    "target": "",
    "lvs": [],
    "pvs": [],
    "btrfs": {},
    "empty": {},
}
MOUNT = {"mount": "/srv/new disk", "uuid": "1-2", "kind": "ext4", "root": "/", "listed": ""}


def of(**facts: Any) -> Cluster:
    return Cluster(PARAMETERS["directory"], PARAMETERS["target"], FACTS | facts)


def texts(way: str) -> list[str]:
    known = Known(
        PARAMETERS | {"place_by": way}, {"mounts": [MOUNT], "drop_in": "", "disks": DISKS, **LOOKED}, {"look": LOOKED}
    )
    found = []
    for step in RUNBOOK.steps:
        checks = [step.verify, *step.prechecks, *(watcher.check for watcher in step.watchers)]
        checks += [step.undo.verify] if isinstance(step.undo, Undo) else []
        checks += [step.passed] if step.passed else []
        found += [check.script(known) for check in checks] + [read.script(known) for read in step.reads]
        found += [command.text for command in step.commands(known)]
        if not isinstance(step.undo, NoUndo):
            found += [command.text for command in step.undo.commands(known)]
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_text_is_one_that_a_shell_understands(way: str, shell: str) -> None:
    program = shutil.which(shell) or "/bin/sh"
    for text in texts(way):
        done = subprocess.run([program, "-n"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr + text
    assert texts(way) == texts(way)


def test_a_slow_disk_is_told_before_one_says_yes_and_where_the_pause_is_compared() -> None:
    known = Known(PARAMETERS, {"disks": DISKS, **LOOKED}, {"look": LOOKED})
    (look, copy, switch) = (RUNBOOK.step(name).verify.script(known) for name in ("look", "copy", "switch"))
    assert "copying takes about 1001 to 2504 s, clients wait about 8 to 31 s (the last checkpoint" in look
    assert "now, the disk gives 1 MB/s of large files or 10 small files a second (there are 9)" in look
    assert "EXPECTED='1001 to 2504 s'" in copy
    assert "EXPECTED='about 8 to 31 s (the last checkpoint" in switch


def test_a_run_that_an_earlier_version_began_has_measured_nothing_and_goes_on() -> None:
    before = {name: value for name, value in LOOKED.items() if name != "rates"}
    known = Known(PARAMETERS, {"disks": DISKS, **before}, {"look": before})
    texts = [RUNBOOK.step(name).verify.script(known) for name in ("look", "copy", "switch")]
    assert "could not be measured" in texts[0]
    assert "EXPECTED='48 to 50 s'" in texts[1]
    assert "EXPECTED='about a second'" in texts[2]


def test_what_a_person_must_know_is_said() -> None:
    assert runbook_mistakes(RUNBOOK) == []
    assert runbook_mistakes(relocate_directory.RUNBOOK) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"directory": "srv/db"}, "directory must be an absolute path"),
        ({"target": "/srv/new/"}, "target must be an absolute path"),
        ({"target": "/srv/../etc"}, "target must be an absolute path"),
        ({"target": "/srv/a'b"}, "without quotes"),
        ({"target": "/srv/$(reboot)"}, "without quotes"),
        ({"target": "/srv/a\nb"}, "without quotes"),
        ({"target": "/srv/db/it is/main"}, "are the same"),
        ({"backup": " "}, "backup must say"),
        ({"target": "", "backup": ""}, "target and backup are not set"),
        ({"tables": ["builds"]}, "not of the form"),
        ({"tablespaces": ["fast"]}, "not of the form NAME=/new/directory"),
        ({"tablespaces": ["fast=/a", "fast=/b"]}, "fast is named twice"),
        ({"tablespaces": ["fast=/a", "slow=/a"]}, "two of the new places are the same"),
        ({"tablespaces": ["fast=/srv/new disk/main/fast"]}, "must lie apart from /srv/new disk/main"),
        ({"wal": "/srv/db/it is/main/wal"}, "must lie apart from /srv/db/it is/main"),
        ({"wal": "beside"}, "wal must be empty, the word inside, or an absolute path"),
        ({"wal": "/srv/$wal"}, "without quotes"),
        ({"tables": ["a.b.c; drop table x"]}, "not of the form"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        target(RUNBOOK, LocalHost(), PARAMETERS | wrong)


def test_a_unit_of_no_service_is_refused() -> None:
    given = {"unit": "x.mount", "directory": "/a", "target": "/b", "backup": "x"}
    with pytest.raises(UsageError, match="must be the service's unit"):
        target(relocate_directory.RUNBOOK, LocalHost(), given)


def test_the_server_is_started_with_its_own_words_and_another_directory() -> None:
    assert server_arguments(of(), "/x y") == ["-D", "/x y", *FACTS["arguments"][3:]]
    short = of(arguments=["postgres", "-D/srv/db", "-p", "1", "--data-directory=/srv/db"])
    assert server_arguments(short, "/x") == ["-D", "/x", "-p", "1"]


def test_a_server_that_was_started_with_its_configuration_s_directory_keeps_it() -> None:
    """The manual, "File Locations": -D may name where postgresql.conf is, and data_directory where the data is."""
    conf = "/etc/postgresql/15/main"
    apart = of(arguments=["postgres", "-D", conf, "-p", "1"], config_file=f"{conf}/postgresql.conf")
    assert server_arguments(apart, "/x y") == ["-D", conf, "-c", "data_directory=/x y", "-p", "1"]
    assert "data_directory=/srv/new disk/main" in standby_arguments(apart)


def test_other_names_of_the_directory_are_found_in_the_server_s_words() -> None:
    conf, lies = "/etc/postgresql/15/main", "/srv/db/it is/main"
    assert other_names(of()) == []
    assert other_names(of(arguments=["postgres", "-D", lies + "/"])) == []
    assert other_names(of(arguments=["postgres", "-D", conf], config_file=f"{conf}/postgresql.conf")) == []
    assert other_names(of(data_directory="/var/lib/link")) == ["/var/lib/link"]
    assert other_names(of(arguments=["postgres", "-D/var/lib/link"])) == ["/var/lib/link"]
    assert other_names(of(arguments=["postgres", "-D", lies, "--data-directory=/x"])) == ["/x"]
    link = of(arguments=["postgres", "-D", "/link"], data_directory="/link", config_file="/link/postgresql.conf")
    assert other_names(link) == ["/link", "/link"]
    inside = of(arguments=["postgres", "-D", "/real"], real="/real", config_file="/real/postgresql.conf")
    assert other_names(inside) == ["/real"]


def test_what_lies_apart_has_a_place_of_its_own_that_does_not_grow_when_moved_again() -> None:
    facts = {"tablespaces": TABLESPACES, "wal": "/wal/main"}
    (far, cold, wal) = of(**facts).apart
    assert far.goes == "/srv/new disk/main.tablespace-16385"
    assert cold.goes == "/srv/new disk/main.tablespace-cold"
    assert wal.goes == f"/wal/main-{of().short}"
    assert of(wal=wal.goes).apart[0].goes == wal.goes
    other = Cluster("/srv/db/it is/main", "/srv/third/main", FACTS | {"wal": wal.goes})
    assert other.apart[0].goes == f"/wal/main-{other.short}"
    assert of(**facts, real="/srv/new disk/main").apart[0].goes == "/srv/db/far"


def test_pg_basebackup_is_told_of_each_with_its_signs() -> None:
    (far, cold, wal) = of(tablespaces=TABLESPACES, wal="/wal/main").apart
    assert mapping_words([far, cold, wal]) == [
        "--tablespace-mapping=/srv/db/far=/srv/new disk/main.tablespace-16385",
        "--tablespace-mapping=/srv/co\\=ld/it's=/srv/new disk/main.tablespace-cold",
        f"--waldir={wal.goes}",
    ]


def test_the_standby_is_quiet_and_leaves_nothing_in_a_file() -> None:
    words = standby_arguments(of())
    assert words[:2] == ["-D", "/srv/new disk/main"]
    assert "listen_addresses=" in words
    assert (
        "primary_conninfo=host='/var/run/postgresql' port=5432 user='postgres' application_name=" + of().slot in words
    )


def test_the_drop_in_is_one_that_systemd_reads_as_it_is_meant() -> None:
    text = starting.drop_in(of(), "/srv/db/it is/main")
    assert 'ExecStart="/bin/sh" "-c"' in text
    assert '"exec >>\\"$$1\\" 2>&1 </dev/null; shift; exec \\"$$@\\""' in text
    assert '"/var/log/postgresql/a%%b.log"' in text
    assert 'Environment="TZ=Europe/Berlin $x"' in text
    assert "\nExecStart=\n" in text


def test_fstab_lines_hold_blanks_as_fstab_wants_them() -> None:
    assert fstab_line(MOUNT) == "UUID=1-2 /srv/new\\040disk ext4 defaults,nofail 0 2"
    subvolume = MOUNT | {"kind": "btrfs", "root": "/@srv data"}
    assert fstab_line(subvolume) == "UUID=1-2 /srv/new\\040disk btrfs defaults,subvol=/@srv\\040data,nofail 0 2"
    assert placing.bind_line(of()).startswith("/srv/new\\040disk/main /srv/db/it\\040is/main none bind,")


def test_a_line_goes_into_fstab_once_and_comes_out_whole(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fstab"
    file.write_text("# first\n/dev/vda / ext4 defaults 0 1")  # without a line end
    monkeypatch.setattr(fstab, "FSTAB", str(file))
    for call in ("enlist", "enlist"):
        subprocess.run(["sh", "-eu", "-c", f"{fstab.shell()}{call} 'UUID=1 /x y z 0 0'"], check=True)
    assert file.read_text() == "# first\n/dev/vda / ext4 defaults 0 1\nUUID=1 /x y z 0 0\n"
    subprocess.run(["sh", "-eu", "-c", f"{fstab.shell()}delist 'UUID=1 /x y z 0 0'"], check=True)
    assert file.read_text() == "# first\n/dev/vda / ext4 defaults 0 1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_is_full_does_not_empty_fstab(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """grep ends with 2 where it could not write, with 1 where no line is left."""
    file = tmp_path / "fstab"
    file.write_text("# first\nUUID=1 /x y z 0 0\n")
    monkeypatch.setattr(fstab, "FSTAB", str(file))
    full = 'grep() { case $1 in -v*) return 2;; *) command grep "$@";; esac; }\n'
    text = f"{full}{fstab.shell()}delist 'UUID=1 /x y z 0 0'"
    assert subprocess.run(["sh", "-c", text], check=False).returncode != 0
    assert file.read_text() == "# first\nUUID=1 /x y z 0 0\n"
    file.write_text("UUID=1 /x y z 0 0\n")
    subprocess.run(["sh", "-eu", "-c", f"{fstab.shell()}delist 'UUID=1 /x y z 0 0'"], check=True)
    assert file.read_text() == ""


@pytest.mark.parametrize(
    ("way", "facts", "said"),
    [
        ("symlink", {}, "yes"),
        ("bind", {"link": "/elsewhere"}, "no "),
        ("data_directory", {"config_file": "/srv/db/it is/main/postgresql.conf"}, "no "),
        ("data_directory", {}, "yes"),
    ],
)
def test_a_way_that_cannot_be_gone_is_refused(way: str, facts: dict[str, str], said: str) -> None:
    assert placing.fit(of(**facts), way).startswith(said)


def test_an_answer_that_lacks_something_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="did not answer a superuser"):
        parse_cluster(b"real 2f78\nanswer \n")
    line = b'{"identifier": "1"}'.hex()
    with pytest.raises(ValueError, match="not told: exe, group"):
        parse_cluster(f"real 2f78\nowner 78\nport 31\narguments 78\nenvironment \nanswer {line}\n".encode())


@pytest.mark.parametrize(
    ("answers", "goes_on"),
    [
        ("echo RESUME", True),
        ("echo 'ERROR:  pooler is not paused/suspended' >&2; exit 1", True),
        ("echo 'connection to server on socket failed: No such file or directory' >&2; exit 2", True),
        ("[ -e again ] && exit 0; touch again; echo 'ERROR:  shutting down' >&2; exit 1", True),
        ("echo 'ERROR:  query_wait_timeout' >&2; exit 1", False),
    ],
)
def test_a_pgbouncer_that_does_not_resume_is_no_success(
    answers: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("psql", answers),
        ("setpriv", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'),
        ("sleep", ""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = f'BOUNCER=6432 OWNER=x GROUP=x BIN=.\n{switching._FUNCTIONS}resumed || {{ echo "no: $said"; exit 1; }}'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (0 if goes_on else 1), done
    assert goes_on or "no: ERROR:  query_wait_timeout" in done.stdout
