"""One at a time, whoever comes, whatever became of the one before."""

from __future__ import annotations

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.hosts.host import DeadlineExceeded, Host, Result
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.runbook import lock
from runbooks_lib.runbook.change import Became, change, settle
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.step import Command


@pytest.fixture
def here() -> LocalHost:
    return LocalHost("here")


def take(host: Host, places: Places, run: str, **options: object) -> lock.Lock:
    return lock.acquire(host, places, who=f"{run}@desk", run=run, runbook="test", **options)  # type: ignore[arg-type]


def old(places: Places, hours: int = 3) -> None:
    """The holder has not been heard of for so long."""
    for path in Path(places.candidates[0]).glob("runbooks-lock*"):
        then = path.stat().st_mtime - hours * 3600
        os.utime(path, (then, then))


def test_of_many_at_once_exactly_one_gets_it(here: LocalHost, places: Places) -> None:
    start = threading.Barrier(6)

    def attempt(number: int) -> str:
        start.wait()
        try:
            return take(here, places, f"run-{number}").token
        except lock.HostBusy:
            return ""

    with ThreadPoolExecutor(6) as pool:
        tokens = [token for token in pool.map(attempt, range(6)) if token]
    found = lock.look(here, places)
    assert found is not None
    assert tokens == [found.token]


def test_it_can_be_given_back_and_taken_many_times_and_leaves_little(here: LocalHost, places: Places) -> None:
    for number in range(5):
        assert lock.release(here, take(here, places, f"run-{number}"))
    assert len(list(Path(places.candidates[0]).glob("runbooks-lock*"))) <= 2


def test_a_stale_lock_is_taken_over_by_its_holders_name_only(here: LocalHost, places: Places) -> None:
    first = take(here, places, "first")
    with pytest.raises(lock.HostBusy, match="first@desk"):
        take(here, places, "second", take_over="first@desk")  # it is not stale
    old(places)
    with pytest.raises(lock.HostBusy, match="held by") as busy:
        take(here, places, "second", take_over="somebody")
    assert "--take-over first@desk" in str(busy.value)
    taken = take(here, places, "second", take_over="first@desk")
    assert taken.taken_over is not None
    assert taken.taken_over.who == "first@desk"
    assert not lock.release(here, first)


def test_of_many_who_take_over_exactly_one_does(here: LocalHost, places: Places) -> None:
    take(here, places, "dead")
    old(places)
    start = threading.Barrier(5)

    def attempt(number: int) -> str:
        start.wait()
        try:
            return take(here, places, f"run-{number}", take_over="dead@desk").token
        except lock.HostBusy:
            return ""

    with ThreadPoolExecutor(5) as pool:
        tokens = [token for token in pool.map(attempt, range(5)) if token]
    found = lock.look(here, places)
    assert found is not None
    assert tokens == [found.token]


def test_who_lost_the_lock_changes_nothing(here: LocalHost, places: Places, tmp_path: Path) -> None:
    first = take(here, places, "run")
    second = take(here, places, "run")  # the same run: its first process is dead
    touch = Command(f"touch {tmp_path}/x", "x")
    came = change(here, touch, first, run="run", change="a.1.1", deadline_seconds=5)
    assert came.became is Became.NOT_BEGUN
    assert "no longer" in came.error
    assert not (tmp_path / "x").exists()
    assert change(here, touch, second, run="run", change="a.1.1", deadline_seconds=5).ok


def test_a_lock_from_before_a_reboot_is_free(here: LocalHost, places: Places) -> None:
    take(here, places, "first")
    path = Path(places.candidates[0]) / "runbooks-lock"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], "00000000-0000-0000-0000-000000000000", *lines[2:]]))
    assert take(here, places, "second").taken_over is None


@pytest.mark.parametrize("junk", ["", "hello\n", "0123456789abcdef\nx\ny\nz\n"])
def test_a_file_that_is_no_lock_is_told_and_never_overwritten(here: LocalHost, places: Places, junk: str) -> None:
    path = Path(places.candidates[0]) / "runbooks-lock"
    path.write_text(junk)
    with pytest.raises(lock.LockUnreadable):
        take(here, places, "run")
    assert path.read_text() == junk


def test_a_link_or_a_directory_in_its_place_is_no_lock(here: LocalHost, places: Places, tmp_path: Path) -> None:
    path = Path(places.candidates[0]) / "runbooks-lock"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(lock.LockUnreadable):
        take(here, places, "run")
    path.unlink()
    path.mkdir()
    with pytest.raises(lock.LockUnreadable):
        take(here, places, "run")
    assert not (tmp_path / "elsewhere").exists()


def test_a_change_that_was_announced_and_never_came_can_never_come(
    here: LocalHost, places: Places, tmp_path: Path
) -> None:
    held = take(here, places, "run")
    found = settle(here, places, "run", ["a.1.1"], root=False)
    assert found["a.1.1"].became is Became.NOT_BEGUN
    late = change(here, Command(f"touch {tmp_path}/x", "x"), held, run="run", change="a.1.1", deadline_seconds=5)
    assert late.became is Became.NOT_BEGUN
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("phase", "became"), [("connect", Became.NOT_BEGUN), ("command", Became.UNKNOWN)])
def test_a_shell_that_was_fed_in_vain_may_begin_yet(
    here: LocalHost, places: Places, monkeypatch: pytest.MonkeyPatch, phase: str, became: Became
) -> None:
    held = take(here, places, "run")

    def late(*_: object, **__: object) -> Result:
        raise DeadlineExceeded("here", "no answer", phase=phase)

    monkeypatch.setattr(here, "run", late)
    came = change(here, Command("true", "x"), held, run="run", change="a.1.1", deadline_seconds=5)
    assert came.became is became


def test_records_in_a_directory_of_somebody_else_are_refused(here: LocalHost, places: Places, tmp_path: Path) -> None:
    held = take(here, places, "run")
    (Path(places.candidates[0]) / f"runbooks-{os.getuid()}").symlink_to(tmp_path)
    came = change(here, Command("true", "x"), held, run="run", change="a.1.1", deadline_seconds=5)
    assert came.became is Became.NOT_BEGUN
    assert list(tmp_path.iterdir()) == []


class As(LocalHost):
    """This machine as another of its users sees it."""

    def __init__(self, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(f"user-{user}")
        self.command, self.patch = f"exec setpriv --reuid={user} --regid={user} --clear-groups /bin/sh -s", monkeypatch

    def run(self, *arguments: Any, **options: Any) -> Result:
        self.patch.setattr("runbooks_lib.hosts.local.COMMAND", self.command)
        return super().run(*arguments, **options)


@pytest.mark.lab
def test_of_two_unix_users_one_has_the_host_and_neither_leaves_more_and_more_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a sticky directory nobody may remove or replace what another user made."""
    with tempfile.TemporaryDirectory(prefix="rb-places-") as made:
        Path(made).chmod(0o1777)
        places = Places((made,))
        ada, bob = As(54321, monkeypatch), As(54322, monkeypatch)
        first = take(ada, places, "first")
        with pytest.raises(lock.HostBusy, match="held by first@desk"):
            take(bob, places, "second")
        assert change(ada, Command(f"touch {made}/x", "x"), first, run="first", change="a.1.1", deadline_seconds=5).ok
        old(places)
        mine = take(bob, places, "second", take_over="first@desk")
        late = change(ada, Command(f"touch {made}/y", "y"), first, run="first", change="a.1.2", deadline_seconds=5)
        assert late.became is Became.NOT_BEGUN
        assert not (Path(made) / "y").exists()
        assert lock.release(bob, mine)
        for number in range(4):
            for user in (bob, bob, ada, bob):
                held = take(user, places, f"run-{number}")
                found = lock.look(ada if user is bob else bob, places)
                assert found is not None
                assert found.token == held.token
                assert lock.release(user, held)
        assert len(list(Path(made).glob("runbooks-lock*"))) <= 6
