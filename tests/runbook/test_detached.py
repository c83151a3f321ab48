"""Long commands: on their own on the host, attached to again, watched, and ended with everything they started."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib import secrets
from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import HostUnreachable, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import detached, job, journal, lock, runs, watching, words
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Run, Stopped, target
from runbooks_lib.runbook.step import Check, Command, Known, Read, Step, Watcher
from tests.hosts.processes import all_gone, wait_for, with_mark
from tests.runbook.bench import Bench
from tests.runbook.marks import mark
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import at, book, write_step


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(detached, "SAY_SECONDS", 0.2)


@pytest.fixture
def held(host: SshHost, places: Places) -> lock.Lock:
    return lock.acquire(host, places, who="tester", run="run", runbook="test")


@pytest.fixture
def marked() -> Iterator[str]:
    made = mark()
    yield made
    assert all_gone(made)


def slow(marked: str, seconds: float = 1.0, **changes: object) -> Step:
    """Writes its file after a while, with a grandchild beside it."""

    def commands(known):  # type: ignore[no-untyped-def]
        text = f"export {marked}; sleep {seconds} & (sleep {seconds} & wait); wait; echo almost\n"
        text += f"printf %s {known.parameters['text']} >{at(known, 'slow')}"
        return [Command(text, "slow")]

    return replace(write_step("slow", "slow"), commands=commands, detached=True, **changes)  # type: ignore[arg-type]


def test_a_job_starts_once_tells_its_log_and_ends_with_its_status(
    host: SshHost, places: Places, held: lock.Lock
) -> None:
    command = Command("echo out; echo err >&2; umask; exit 3", "nothing")
    assert job.start(host, command, held, run="run", change="a.1.1")
    assert not job.start(host, command, held, run="run", change="a.1.1")
    end = time.monotonic() + 5
    while (found := job.look(host, places, run="run", change="a.1.1", root=False)).state is not job.JobState.ENDED:
        assert time.monotonic() < end
    assert found.exit_status == 3
    umask = host.run(Script("umask")).stdout
    assert found.log == b"out\nerr\n" + umask
    assert job.look(host, places, run="run", change="a.1.1", root=False, offset=4).log == b"err\n" + umask
    (records,) = [
        path for path in Path(places.candidates[0]).iterdir() if path.name.startswith("runbooks-") and path.is_dir()
    ]
    assert records.stat().st_mode & 0o777 == 0o700
    assert (records / "run/a.1.1/log").stat().st_mode & 0o777 == 0o600


def test_a_job_that_says_too_much_lives_and_its_log_is_bounded(host: SshHost, places: Places, held: lock.Lock) -> None:
    command = Command("head -c 3000000 /dev/zero; exit 5", "nothing")
    job.start(host, command, held, run="run", change="a.1.1")
    end = time.monotonic() + 20
    while (found := job.look(host, places, run="run", change="a.1.1", root=False)).state is not job.JobState.ENDED:
        assert time.monotonic() < end
    assert found.exit_status == 5
    assert found.log_bytes <= job.LOG_BYTES


def test_a_job_whose_shell_is_killed_leaves_no_status(host: SshHost, places: Places, held: lock.Lock) -> None:
    """The place for it is made before the command begins; what stands there until the end is none."""
    command = Command("sh -c 'set -- $(cat /proc/$PPID/stat); kill -9 $4'; true", "nothing")
    job.start(host, command, held, run="run", change="a.1.1")
    end = time.monotonic() + 20
    while (found := job.look(host, places, run="run", change="a.1.1", root=False)).state is job.JobState.RUNNING:
        assert time.monotonic() < end
    assert (found.state, found.exit_status) == (job.JobState.LOST, None)


def test_ending_a_job_ends_its_whole_group(host: SshHost, places: Places, held: lock.Lock, marked: str) -> None:
    command = Command(f"export {marked}; trap '' TERM HUP INT; (sleep 60 & sleep 61) & sleep 62", "nothing")
    job.start(host, command, held, run="run", change="a.1.1")
    wait_for(marked, 3)
    assert job.end(host, places, run="run", change="a.1.1", root=False)
    assert with_mark(marked) == []
    assert job.look(host, places, run="run", change="a.1.1", root=False).state is job.JobState.LOST


def test_without_the_lock_no_job_starts(host: SshHost, places: Places, held: lock.Lock, tmp_path: Path) -> None:
    lock.acquire(host, places, who="other", run="run", runbook="test")
    with pytest.raises(Exception, match="the lock is no longer"):
        job.start(host, Command(f"touch {tmp_path}/x", "x"), held, run="run", change="a.1.1")
    assert job.look(host, places, run="run", change="a.1.1", root=False).state is job.JobState.NONE
    assert not (tmp_path / "x").exists()


def test_a_detached_step_shows_progress_and_is_verified(bench: Bench, marked: str) -> None:
    progress = Read("progress", lambda _: "echo 1 4", lambda data: [int(each) for each in data.split()])
    runbook = book(slow(marked, 3, progress=progress))
    run = bench.approved(runbook)
    carry_out(run)
    assert bench.text("slow") == "new"
    said = run.options.operator.text  # type: ignore[attr-defined]
    assert "running, 1 of 4" in said


GIB, MIB = 2**30, 2**20


@pytest.mark.parametrize(
    ("far", "told"),
    [
        ((3 * GIB, 8 * GIB, 12 * MIB, "bytes"), "3 GiB of 8 GiB (38 %), 12 MiB/s, about 7 min 7 s left"),
        ((3 * GIB, 8 * GIB, 0, "bytes"), "3 GiB of 8 GiB (38 %)"),  # at first no rate is known
        ((5 * MIB, 0, MIB, "bytes"), "5 MiB so far, 1 MiB/s"),  # nor how much it will be
        ((0, 0, 0, "bytes"), ""),
        ((9 * GIB, 8 * GIB, MIB, "bytes"), "9 GiB of 8 GiB (100 %), 1 MiB/s"),  # it has grown meanwhile
        ((8589934000, 8 * GIB, MIB, "bytes"), "8 GiB of 8 GiB (99.9 %), 1 MiB/s, about 0.0 s left"),
        ((30, 90, 2, "files"), "30 of 90 files (33 %), 2 files/s, about 30 s left"),
        ((1, 4, 0, ""), "1 of 4 (25 %)"),
    ],
)
def test_progress_rate_and_time_left_have_units(far: tuple[float, float, float, str], told: str) -> None:
    assert words.progress(*far) == told


def test_a_growing_copy_tells_its_bytes_its_rate_and_the_time_left(bench: Bench) -> None:
    def commands(known: Known) -> list[Command]:
        grown = at(known, "grown")
        text = "i=0; while [ $i -lt 12 ]; do i=$((i + 1)); "
        text += f"head -c 1048576 /dev/zero >>{grown}; sleep 0.15; done; "
        return [Command(text + f"printf %s {known.parameters['text']} >{at(known, 'slow')}", "slow")]

    progress = Read(
        "progress",
        lambda known: f"stat -c '%s 12582912' {at(known, 'grown')} 2>/dev/null || echo 0 0",
        lambda data: [*map(int, data.split()), "bytes"],
    )
    step = replace(write_step("slow", "slow"), commands=commands, detached=True, progress=progress)
    run = bench.approved(book(step))
    carry_out(run)
    said = run.options.operator.text  # type: ignore[attr-defined]
    line = r"running, [0-9.]+ MiB of 12 MiB \([0-9]+ %\), [0-9.]+ [KM]iB/s, about [0-9.]+ s left"
    assert re.search(line, said), said


def test_a_resume_attaches_to_the_job_and_does_not_start_another(
    bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runbook = book(slow(marked, 2.0))
    run = bench.approved(runbook)
    monkeypatch.setattr(detached, "follow", _interrupt)
    with pytest.raises(Stopped, match="interrupted in `slow`") as stopped:
        carry_out(run)
    assert "its job goes on on the host" in str(stopped.value)
    monkeypatch.undo()
    monkeypatch.setattr(detached, "POLL_SECONDS", 0.1)
    before = with_mark(marked)
    assert before
    directory = runs.directories(bench.runs)[0]
    aim = target(runbook, bench.host, bench.parameters)
    again = resume(directory, aim, bench.options(approve=runs.state_of(directory).digest))
    carry_out(again)
    assert bench.text("slow") == "new"
    changes = [entry for entry in journal.read(directory / journal.NAME).entries if entry.kind == "change"]
    assert len(changes) == 1


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("began", [True, False])
def test_a_start_that_is_not_answered_is_looked_for_on_the_host(
    bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch, began: bool
) -> None:
    start = job.start

    def unanswered(host: SshHost, *arguments: Any, **options: Any) -> bool:
        if began:
            start(host, *arguments, **options)
        raise HostUnreachable(host.name, "the connection died")

    monkeypatch.setattr(job, "start", unanswered)
    run = bench.approved(book(slow(marked)))
    if began:
        carry_out(run)
        assert bench.text("slow") == "new"
    else:
        with pytest.raises(Stopped, match="a command not begun"):
            carry_out(run)
        assert bench.text("slow") is None
    assert bench.kinds().count("change") == 1


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, quick_path: Path, marked: str) -> Path:
    """A host so slow that a job begins only when this file is there, long after its start was given up."""
    go = quick_path / "go"
    text = job._START.replace("[ -d /run/systemd/system ]", "false").replace("-lt 50", "-lt 1")
    wait = f'while [ -d {quick_path} ] && [ ! -e {go} ]; do sleep 0.05; done; exec /bin/sh "$@"'
    text = text.replace("setsid /bin/sh", f"{marked} setsid /bin/sh -c '{wait}' sh")
    monkeypatch.setattr(job, "_START", text)
    return go


def test_a_job_that_did_not_start_in_time_never_begins(bench: Bench, marked: str, late: Path) -> None:
    runbook = book(slow(marked, 0.1))
    with pytest.raises(Stopped, match=r"a command not begun: .*did not start within 5 s"):
        carry_out(bench.approved(runbook))
    wait_for(marked, 1)
    late.touch()
    assert all_gone(marked, 10)
    assert bench.text("slow") is None


def test_a_job_that_began_while_it_was_looked_for_is_the_only_one(
    bench: Bench, marked: str, late: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = job.look

    def looks(*arguments: Any, **options: Any) -> job.JobLook:
        late.touch()
        while (found := look(*arguments, **options)).state is job.JobState.NONE:
            time.sleep(0.05)
        return found

    monkeypatch.setattr(job, "look", looks)
    carry_out(bench.approved(book(slow(marked, 0.5))))
    assert bench.text("slow") == "new"
    assert bench.kinds().count("change") == 1


@pytest.mark.parametrize("then", ["cancel", "undo", "end"])
def test_what_is_cancelled_or_undone_is_not_followed_by_its_late_job(
    bench: Bench, marked: str, late: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    start = job.start

    def interrupted(*arguments: Any, **options: Any) -> bool:
        with pytest.raises(RunbookError, match="did not start"):
            start(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "start", interrupted)
    runbook = book(slow(marked, 0.1))
    run = bench.approved(runbook)
    with pytest.raises(Stopped, match="interrupted"):
        carry_out(run)
    wait_for(marked, 1)
    if then == "end":
        assert job.end(bench.host, bench.places, run=run.name, change="slow.1.1", root=False)
    elif then == "undo":
        bench.undo(runbook)
    else:
        aim = target(runbook, bench.host, bench.parameters)
        detached.cancel(resume(runs.directories(bench.runs)[0], aim, bench.options()))
        assert runs.state_of(runs.directories(bench.runs)[0]).step("slow").open_changes == ()
    late.touch()
    assert all_gone(marked, 10)
    assert bench.text("slow") is None


@pytest.mark.parametrize("cut", [8000, 160])
def test_a_secret_is_masked_before_a_jobs_output_is_cut(bench: Bench, cut: int) -> None:
    """The cut falls behind its first character: what is left of it is not the registered value any more."""
    secret, go = "canary-4711-abc", bench.directory / "go"
    secrets.register(secret)

    class Waiting(Scripted):
        def say(self, text: str) -> None:
            super().say(text)
            if text.endswith("000"):
                go.touch()

    text = f"printf '%s%0{cut - len(secret) + 1}d' {secret[:7]}''{secret[7:]} 0; until [ -e {go} ]; do sleep 0.1; done"
    commands = [Command(f"{text}; exit 3", "x")]
    aim = target(
        book(replace(write_step("slow", "slow"), commands=lambda _: commands, detached=True)),
        bench.host,
        bench.parameters,
    )
    operator = Waiting()
    run = open_run(aim, replace(bench.options(approve=aim.plan().digest), operator=operator))
    assert isinstance(run, Run)
    with pytest.raises(Stopped, match="ended with status 3") as stopped:
        carry_out(run)
    for told in (str(stopped.value), run.journal.path.read_text(), operator.text):
        assert secret[1:] not in told
    assert "***000" in str(stopped.value)


def test_a_watcher_that_says_no_ends_the_job_and_says_why(bench: Bench, marked: str) -> None:
    alarm = bench.directory / "alarm"
    watcher = Watcher(
        Check("there is room", lambda _: f"[ -e {alarm} ] && no '3 % left'; yes '40 % left'"), every_seconds=0.1
    )
    threading.Timer(1.0, alarm.touch).start()
    with pytest.raises(Stopped, match="no longer so that there is room: 3 % left"):
        carry_out(bench.approved(book(slow(marked, 60, watchers=(watcher,)))))
    assert with_mark(marked) == []
    assert bench.text("slow") is None


def test_a_watcher_that_says_no_ends_a_long_wait(bench: Bench, marked: str) -> None:
    never = Check("it follows", lambda _: "no 'it is 9 bytes behind'")
    watcher = Watcher(Check("there is room", lambda _: "no '3 % left'"), every_seconds=0.1)
    step = replace(slow(marked), detached=False, verify=never, verify_seconds=250.0, watchers=(watcher,))
    with pytest.raises(Stopped, match=r"not waited for any longer.*there is room: 3 % left; it is 9 bytes behind"):
        carry_out(bench.approved(book(step)))


def test_who_waits_long_is_told_what_for(bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_SAY_SECONDS", 0.1)
    done = bench.directory / "done"
    later = Check("it follows", lambda _: f"[ -e {done} ] && yes 'it does'; no 'it is 9 bytes behind'")
    threading.Timer(2.0, done.touch).start()
    run = bench.approved(book(replace(slow(marked), detached=False, verify=later, verify_seconds=30.0)))
    carry_out(run)
    assert "waiting until it follows; now: it is 9 bytes behind" in run.options.operator.text  # type: ignore[attr-defined]


def test_a_watcher_that_cannot_tell_three_times_ends_the_job(bench: Bench, marked: str) -> None:
    watcher = Watcher(Check("there is room", lambda _: "nosuchcommand"), every_seconds=0.1)
    with pytest.raises(Stopped, match="3 times in a row it could not be told"):
        carry_out(bench.approved(book(slow(marked, 60, watchers=(watcher,)))))


def test_the_deadline_of_a_job_ends_it(bench: Bench, marked: str) -> None:
    with pytest.raises(Stopped, match="did not end within 1 s"):
        carry_out(bench.approved(book(slow(marked, 60, deadline_seconds=1.0))))
    assert with_mark(marked) == []


def test_undo_ends_a_running_job_first(bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runbook = book(slow(marked, 60))
    run = bench.approved(runbook)
    monkeypatch.setattr(detached, "follow", _interrupt)
    with pytest.raises(Stopped):
        carry_out(run)
    wait_for(marked, 1)
    bench.undo(runbook)
    assert with_mark(marked) == []
    assert list(bench.directory.iterdir()) == []


def test_cancel_ends_what_runs_and_takes_nothing_back(
    bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runbook = book(write_step("one", "one"), slow(marked, 60))
    run = bench.approved(runbook)
    monkeypatch.setattr(detached, "follow", _interrupt)
    with pytest.raises(Stopped, match="interrupted in `slow`") as stopped:
        carry_out(run)
    assert f"runbook cancel {run.name[-6:]}`" in str(stopped.value)
    wait_for(marked, 2)
    directory = runs.directories(bench.runs)[0]
    aim = target(runbook, bench.host, bench.parameters)
    said = detached.cancel(resume(directory, aim, bench.options()))
    assert "its process group is gone" in said
    assert with_mark(marked) == []
    assert bench.text("one") == "new"
    state = runs.state_of(directory)
    assert (state.outcome, state.half_done, state.step("slow").open_changes) == ("open", ("slow",), ())
    assert detached.cancel(resume(directory, aim, bench.options())) == "nothing of it was running"
    bench.undo(runbook)
    assert list(bench.directory.iterdir()) == []


def test_a_job_whose_operator_lost_the_lock_is_ended(
    bench: Bench, marked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "RENEW_SECONDS", 0.3)
    run = bench.approved(book(slow(marked, 60)))
    taken = {"who": "other", "run": run.name, "runbook": "test"}
    losing = threading.Timer(1.5, lock.acquire, (bench.host, bench.places), taken)
    losing.start()
    with pytest.raises(Stopped, match="another operator has taken the host's lock over"):
        carry_out(run)
    losing.join()
    assert with_mark(marked) == []
