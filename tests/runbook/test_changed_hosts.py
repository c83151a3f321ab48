"""No plan of a changed host applies: whatever differs, and whenever it changed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.runbook import journal, lock, runs
from runbooks_lib.runbook.identity import Identity
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Plan, StepPlan, Verdict, differences
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import Finished, carry_out, open_run
from runbooks_lib.runbook.run import Options, Refused, Stopped, target
from runbooks_lib.runbook.step import Command, Known
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import at, book, write_step

FILES = ("one", "two")
# What a file may hold: nothing, the text that is wanted, or something else.
HELD = st.sampled_from([None, "", "new", "old", "another\n", "it's $(hostile)"])
HOSTS = st.fixed_dictionaries(dict.fromkeys(FILES, HELD))


def _keeping(name: str) -> Any:
    """Commands that depend on what was there, as those of a real procedure do."""

    def commands(known: Known) -> Sequence[Command]:
        kept = f"printf %s {word(str(known.before['old']))} >{at(known, name)}.kept"
        put = f"printf %s new >{at(known, name)}.part && mv -f {at(known, name)}.part {at(known, name)}"
        return [Command(kept, name), Command(put, name)]

    return write_step(name, name, commands=commands)


BOOK = book(*(_keeping(name) for name in FILES))


class Bench:
    """A directory that is the host, and the runs on it."""

    def __init__(self, path: Path) -> None:
        self.work, self.runs = path / "work", path / "runs"
        self.work.mkdir()
        place = path / "place"
        place.mkdir()
        place.chmod(0o1777)
        self.places = Places((str(place),))
        self.host = LocalHost("desk")
        self.parameters = {"directory": str(self.work), "text": "new"}

    def options(self, digest: str) -> Options:
        return Options(self.runs, self.places, Scripted(present=False), approve=digest)

    def be(self, held: Mapping[str, str | None]) -> None:
        for name, text in held.items():
            if text is None:
                (self.work / name).unlink(missing_ok=True)
            else:
                (self.work / name).write_text(text)

    def picture(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.work.iterdir()}

    def ran(self) -> list[str]:
        return [
            entry.data["command"]
            for directory in runs.directories(self.runs)
            for entry in journal.read(directory / journal.NAME).entries
            if entry.kind == "change"
        ]


@contextmanager
def bench() -> Iterator[Bench]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Bench(Path(made))


@settings(max_examples=25, deadline=None)
@given(then=HOSTS, now=HOSTS)
def test_an_approval_runs_what_was_approved_or_nothing(
    then: Mapping[str, str | None], now: Mapping[str, str | None]
) -> None:
    with bench() as made:
        made.be(then)
        approved = target(BOOK, made.host, made.parameters).plan()
        made.be(now)
        before = made.picture()
        aim = target(BOOK, made.host, made.parameters)
        same = aim.plan().digest == approved.digest
        try:
            run = open_run(aim, made.options(approved.digest))
            assert not isinstance(run, Finished)
            carry_out(run)
        except Refused:
            assert not same
            assert made.picture() == before
            assert made.ran() == []
        else:
            assert same
            assert made.ran() == [command.text for step in approved.steps for command in step.commands]
        holder = lock.look(made.host, made.places)
        assert holder is None or holder.free


class Changing(LocalHost):
    """A host that somebody else changes while it is asked for the `at`-th time."""

    def __init__(self, made: Bench, held: Mapping[str, str | None], at: int) -> None:
        super().__init__("desk")
        self.made, self.held, self.left = made, held, at

    def run(self, script: Script, **how: Any) -> Result:
        self.left -= 1
        if self.left == 0:
            self.made.be(self.held)
        return super().run(script, **how)


@settings(max_examples=25, deadline=None)
@given(then=HOSTS, now=HOSTS, at=st.integers(1, 20))
@example(then={"one": None, "two": None}, now={"one": "new", "two": None}, at=11)
def test_whenever_the_host_changes_nothing_runs_that_was_not_approved(
    then: Mapping[str, str | None], now: Mapping[str, str | None], at: int
) -> None:
    with bench() as made:
        made.be(then)
        approved = target(BOOK, made.host, made.parameters).plan()
        aim = target(BOOK, made.host, made.parameters)
        aim = replace(aim, host=Changing(made, now, at))
        allowed = [command.text for step in approved.steps for command in step.commands]
        try:
            run = open_run(aim, made.options(approved.digest))
            assert not isinstance(run, Finished)
            carry_out(run)
        except (Refused, Stopped):
            pass
        # What somebody else has made so by the step's turn is passed over; the rest runs as approved, in its order.
        left = iter(allowed)
        assert all(command in left for command in made.ran())


TEXT = st.text(max_size=8)
COMMANDS = st.lists(st.builds(Command, TEXT, st.just("x"), st.booleans()), max_size=2).map(tuple)
STEPS = st.lists(
    st.builds(StepPlan, TEXT, st.just("title"), st.sampled_from(list(Verdict)), st.just(""), COMMANDS), max_size=3
).map(tuple)
IDENTITIES = st.builds(
    Identity, TEXT, TEXT, st.lists(TEXT, max_size=2).map(tuple), st.lists(TEXT, max_size=2).map(tuple)
)
PLANS = st.builds(Plan, TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.booleans()), IDENTITIES, STEPS)


@given(one=PLANS, other=PLANS)
def test_two_plans_have_one_digest_only_if_they_promise_the_same(one: Plan, other: Plan) -> None:
    assert (one.digest == other.digest) == (not differences(one.promised(), other.promised()))


@pytest.mark.parametrize(
    "changed",
    [{"machine_id": "b"}, {"host_keys": ("ssh-ed25519 SHA256:x",)}, {"filesystems": ("uuid-2",)}, {"host": "web-2"}],
)
def test_another_machine_key_or_file_system_is_another_plan(changed: dict[str, Any]) -> None:
    identity = Identity("web-1", "a", ("ssh-ed25519 SHA256:y",), ("uuid-1",))
    plan = Plan("book", "1", {}, identity, ())
    assert plan.digest != replace(plan, identity=replace(identity, **changed)).digest


def test_another_version_or_parameter_is_another_plan() -> None:
    plan = Plan("book", "1", {"x": 1}, Identity("web-1", "a", (), ()), ())
    digests = {plan.digest, replace(plan, version="2").digest, replace(plan, parameters={"x": 2}).digest}
    assert len(digests) == 3
