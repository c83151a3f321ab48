"""A mount point that needs space: the ways, what each buys, the one that is chosen, and what came of it.

The notebook `incident/relieve-disk-pressure.ipynb` and `runbook relieve` are calls of what stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import config as inventory
from runbooks_lib.capacity.sentences import amount
from runbooks_lib.config import Config, HostEntry
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.filesystems import Usage
from runbooks_lib.history import open_history
from runbooks_lib.hosts.host import Host
from runbooks_lib.hosts.opening import open_host
from runbooks_lib.procedures.storage import buys, survey
from runbooks_lib.procedures.storage.buys import Expected
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.table import Table
from runbooks_lib.procedures.storage.way import NEVER, Safety, Way
from runbooks_lib.runbook import evidence, places
from runbooks_lib.runbook.catalogue import all_runbooks, find_runbook
from runbooks_lib.runbook.operator import Console, Operator
from runbooks_lib.runbook.quoting import shown, word
from runbooks_lib.runbook.run import Options
from runbooks_lib.runbook.runs import directories, state_of
from runbooks_lib.runbook.session import PLAN_ONLY, Session, session_on
from runbooks_lib.runbook.state import RunState
from runbooks_lib.secrets import redact


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for one mount point. `wanted_bytes` is how much more is wanted, and `wanted_why` by what."""

    seen: Seen
    expected: Expected
    ways: tuple[Way, ...]
    wanted_bytes: int
    wanted_why: str
    wanted_days: int

    @property
    def enough(self) -> tuple[Way, ...]:
        """The offered ways that give what is wanted."""
        return tuple(way for way in self.ways if way.offered and (way.gain_bytes or 0) >= self.wanted_bytes)

    def way(self, name: str) -> Way:
        """The offered way of this name. Raises UsageError, with the reason or with what there is."""
        for way in self.ways:
            if way.name == name:
                if way.refused:
                    raise UsageError(f"{name} is not offered: {way.refused}", where=self.seen.host,
                                     true_now="nothing was changed", next="choose another way")  # fmt: skip
                return way
        offered = ", ".join(way.name for way in self.ways if way.offered)
        raise UsageError(
            f"there is no way {name}",
            where=f"{self.seen.host}:{self.seen.mountpoint}",
            true_now="nothing was changed",
            next=f"choose one of: {offered}" if offered else "no way is offered here: see the reasons",
        )

    def table(self) -> Table:
        """The ways, what each gains and buys; what is not offered, and why; what is never done."""
        rows = [self._row(way) for way in self.ways]
        now = buys.in_words(self.expected.days(), self.expected.horizon_days)
        before = [
            f"{self.seen.mountpoint} on {self.seen.host}: {_use(self.seen.usage)}. "
            f"{self._pool()}Days to {_percent(self.expected.threshold_ratio)}: {now}.",
            f"Wanted: {amount(self.wanted_bytes)} ({self.wanted_why})."
            if self.wanted_bytes
            else f"Nothing more is wanted: as it is, nine of ten futures hold {self.wanted_days} days.",
            *self._warnings(),
        ]
        after = [f"Not offered - {way.name}: {way.refused}." for way in self.ways if way.refused]
        after += [f"Never - {never.mistake}: {never.why} {never.instead}" for never in NEVER]
        header = ("way", "what it does", "gains", f"days to {_percent(self.expected.threshold_ratio)} then", "safety",
                  "takes about", "undo", "measured by")  # fmt: skip
        return Table(header, [row for row in rows if row], before, after)

    def _row(self, way: Way) -> Sequence[str]:
        if way.refused:
            return ()
        gain = way.gain_bytes or 0
        most = f" (of at most {amount(way.most_bytes)})" if way.most_bytes and way.most_bytes > gain else ""
        enough = "" if gain >= self.wanted_bytes else ", less than wanted"
        return (
            way.name,
            way.title,
            f"{amount(gain)}{most}{enough}",
            buys.in_words(self.expected.days(gain), self.expected.horizon_days),
            way.safety.words,
            f"{way.seconds:.0f} s",
            way.undo,
            way.measured,
        )

    def _pool(self) -> str:
        pool = self.seen.pool
        if pool is None:
            return ""
        counts = "that is full first, and stops it whatever df says" if self.seen.pool_is_limit else "it has more room"
        return f"It draws from the thin pool {pool.name}: {_use(pool.usage)}; {counts}. "

    def _warnings(self) -> list[str]:
        ratio = self.seen.usage.files_used_ratio
        said = []
        if ratio is not None and ratio >= 0.95:
            said.append(
                f"Its inodes are {_percent(ratio)} used: bytes alone do not help. A larger ext4 gets more inodes too."
            )
        if self.seen.filesystem.read_only:
            said.append(f"It is read-only: {self.seen.filesystem.read_only_flip or 'mounted so'}. Mend that first.")
        return said


def find(
    host: Host,
    mountpoint: str,
    *,
    config: Config,
    entry: HostEntry,
    days: int,
    add_bytes: int = 0,
    files: Sequence[str] = (),
) -> Found:  # fmt: skip
    """Look at a host and say every way. `add_bytes` asks for so much; 0: what the forecast says for `days`. `files`:
    those that a person would move away. Raises as `survey.look` does."""
    seen = survey.look(host, mountpoint, files)
    place = seen.pool.name if seen.pool is not None and seen.pool_is_limit else mountpoint
    history = open_history(config.history)
    try:
        told = buys.expected(
            history, entry.name, place, seen.limit, entry.partition(mountpoint), now=datetime.now(UTC), days=days
        )
    finally:
        history.close()
    wanted, why = (add_bytes, "as you asked") if add_bytes else told.wanted(days)
    return Found(seen, told, survey.ways(seen, wanted or told.usable_bytes // 10, files), wanted, why, days)


class Relief:
    """A notebook's hold on one mount point. Make it with `open_relief`."""

    def __init__(
        self, host: Host, found: Found, way: Way | None, session: Session | None, options: Options, left: str
    ) -> None:
        self.found, self.way = found, way
        self._host, self._session, self._options, self._left = host, session, options, left

    def ways(self) -> Table:
        """Every way with what it buys, what is not offered and why, and what is never done."""
        return self.found.table()

    @property
    def headline(self) -> str:
        """One line for a list of reports: how far the chosen way is, or what is offered."""
        if self._session is not None:
            return self._session.headline
        where = f"{self.found.seen.mountpoint} on {self.found.seen.host}"
        offered = [way.name for way in self.found.ways if way.offered]
        if not offered:
            return f"{PLAN_ONLY}; no way to more space on {where} is offered"
        best = self.found.enough[0].name if self.found.enough else offered[0]
        return f"{PLAN_ONLY}; {len(offered)} ways to more space on {where} are offered, {best} first; none is chosen"

    @property
    def blocked(self) -> bool:
        """The chosen way's plan cannot be run, or none gives what is wanted."""
        if self._session is not None:
            return self._session.blocked
        return bool(self.found.wanted_bytes and not self.found.enough)

    def plan(self) -> None:
        """Show what the chosen way would run, and its digest."""
        if self._left:
            self._say(self._left)
        if self._session is None:
            return self._say(f"{PLAN_ONLY}. Choose a way by its name: set `way` in the cell of parameters.")
        return self._session.plan()

    def run(self) -> None:
        """Do the chosen way, step by step; asks before each, or runs what was approved. Raises Stopped and others."""
        if self._session is None or self.way is None:
            return self._say(f"{PLAN_ONLY}.")
        for step in find_runbook(self.way.runbook).steps:
            self._session.step(step.name)
        return self._session.finish()

    def undo(self) -> None:
        """Take the chosen way back, where it can be; otherwise the reason is told."""
        if self._session is None:
            return self._say(f"{PLAN_ONLY}.")
        return self._session.undo()

    def before_and_after(self) -> Table:
        """What the host said before the first step and what it says now, in one table."""
        now = survey.look(self._host, self.found.seen.mountpoint)
        then, told = self.found.seen, self.found.expected
        after = Expected(now.limit, told.threshold_ratio, told.horizon_days, told.forecast, told.rates, told.why_not)
        gained = now.writable_bytes - then.writable_bytes
        rows = [
            ("size", amount(then.usage.size_bytes), amount(now.usage.size_bytes)),
            ("used", amount(then.usage.used_bytes), amount(now.usage.used_bytes)),
            ("available", amount(then.usage.avail_bytes), amount(now.usage.avail_bytes)),
            ("kept for root", amount(then.usage.reserved_bytes), amount(now.usage.reserved_bytes)),
            ("used of what is usable", _ratio(then.usage), _ratio(now.usage)),
            ("its device", _size(then.survey.device_bytes), _size(now.survey.device_bytes)),
            *([("its thin pool", _use(then.pool.usage), _use(now.pool.usage))] if then.pool and now.pool else []),
            (
                f"days to {_percent(told.threshold_ratio)}",
                buys.in_words(told.days(), told.horizon_days),
                buys.in_words(after.days(), told.horizon_days),
            ),
        ]
        words = "As much is available as before."
        if gained:
            words = f"{amount(abs(gained))} {'more' if gained > 0 else 'less'} is available than before."
        if self.way is not None:
            words += f" Undo of {self.way.name}: {self.way.undo}."
        return Table(("", "before", "now"), rows, after=(words,))

    def _say(self, text: str) -> None:
        self._options.operator.say(text)


class NoHost:
    """What the notebook's cells call as long as no host is chosen: they only say so."""

    headline = f"{PLAN_ONLY}; no host is chosen"
    blocked = False

    def ways(self) -> Table:
        """What is never done: that needs no host."""
        return Table((), (), before=("No host is chosen: set `host` and `mountpoint` in the cell of parameters.",),
                     after=[f"Never - {never.mistake}: {never.why} {never.instead}" for never in NEVER])  # fmt: skip

    def plan(self) -> None:
        """Nothing to plan."""
        print(f"{PLAN_ONLY}. No host is chosen.")

    def run(self) -> None:
        """Nothing to run."""
        self.plan()

    def undo(self) -> None:
        """Nothing to take back."""
        self.plan()

    def before_and_after(self) -> Table:
        """Nothing to compare."""
        return Table((), (), before=(f"{PLAN_ONLY}. No host is chosen.",))


def open_relief(
    *,
    host: str,
    mountpoint: str,
    way: str = "",
    days: int = 30,
    add_gib: float = 0.0,
    files: Sequence[str] = (),
    approve: str = "",
    config: str = "",
    operator: Operator | None = None,
) -> Relief | NoHost:
    """Look at the host, and make the chosen way ready. A run of one of the ways that was left unfinished on this mount
    point is carried on, with its own parameters.

    Raises UsageError for a way that is not offered, HostError when the host does not answer.
    """
    if not host:
        return NoHost()
    loaded = inventory.load(Path(config) if config else None)
    (entry,) = loaded.select(host=(host,))
    opened = open_host(entry, loaded)
    options = Options(
        loaded.outputs / "runs",
        places.chosen(),
        operator or Console(),
        approve or None,
        on_begin=evidence.begin,
        on_end=evidence.gather,
    )
    found = find(opened, mountpoint, config=loaded, entry=entry, days=days, add_bytes=int(add_gib * 2**30), files=files)
    words = ""
    chosen: Way | None = None
    left = newest_run(options.runs, entry.name, mountpoint)
    if left is not None and left.outcome == "open":
        chosen = _as_way(left)
        words = f"Unfinished, and carried on: {left.run}. Whatever `way` says, this comes first."
    elif (
        left is not None
        and left.outcome == "done"
        and _did(left, way, files)
        and way not in {each.name for each in found.ways if each.offered}
    ):
        chosen = _as_way(left)
        words = f"Done before, in {left.run}: nothing of it is repeated, and `relief.undo()` takes it back."
    elif way:
        chosen = found.way(way)
    session = None
    if chosen is not None:
        session = session_on(find_runbook(chosen.runbook), opened, dict(chosen.parameters), options)
    return Relief(opened, found, chosen, session, options, words)


def newest_run(runs: Path, host: str, mountpoint: str) -> RunState | None:
    """The newest run of a way on this mount point; None when there was none."""
    mine = all_runbooks(__package__)
    for directory in directories(runs):
        with suppress(RunbookError):
            state = state_of(directory)
            here = state.host == host and state.parameters.get("mountpoint") == mountpoint
            if here and state.runbook in mine and state.outcome != "not begun":
                return state
    return None


_THROUGH_VOLUME = ("add-disk", "add-volume", "grow-volume")


def _did(state: RunState, way: str, files: Sequence[str]) -> bool:
    """Whether a run did the way of this name: `drop-slot:NAME` has NAME among its parameters, `move-files` those."""
    kind, _, what = way.partition(":")
    runbook = "extend-volume" if kind in _THROUGH_VOLUME else kind
    same = (not what or what in state.parameters.values()) and state.parameters.get("files", [*files]) == [*files]
    return state.outcome == "done" and state.runbook == runbook and same


def _as_way(state: RunState) -> Way:
    runbook = find_runbook(state.runbook)
    return Way(
        runbook.name, runbook.title, Safety.ADDS, undo=runbook.undo_takes, runbook=runbook.name,
        parameters=state.parameters,
    )  # fmt: skip


def text(found: Found) -> str:
    """The ways for a terminal: one block each, with the command that does it."""
    table = found.table()
    lines = [*table.before, ""]
    for way, cells in zip((each for each in found.ways if each.offered), table.rows, strict=True):
        name, what, gains, days, safety, seconds, undo, measured = cells
        lines += [
            f"{name}: {what}",
            f"  gains      {gains}; measured: {measured}",
            f"  then       days to {_percent(found.expected.threshold_ratio)}: {days}",
            f"  safety     {safety}; takes about {seconds}",
            f"  undo       {undo}",
            f"  does it    runbook run {way.runbook} --host {word(found.seen.host)} {_given(way)}",
            "",
        ]
    if found.wanted_bytes and not found.enough:
        lines += [f"No way alone gives the {amount(found.wanted_bytes)} that are wanted."]
    return "\n".join(shown(redact(line)) for line in [*lines, *table.after])


def as_data(found: Found) -> dict[str, Any]:
    """The same as JSON-like values."""
    return {
        "host": found.seen.host,
        "mountpoint": found.seen.mountpoint,
        "usage": asdict(found.seen.usage),
        "wanted_bytes": found.wanted_bytes,
        "wanted_by": found.wanted_why,
        "enough": [way.name for way in found.enough],
        "ways": [
            {
                **asdict(way),
                "safety": way.safety.name.lower(),
                "days_to_threshold": found.expected.days(way.gain_bytes or 0),
            }
            for way in found.ways
        ],
        "never": [asdict(never) for never in NEVER],
    }


def _given(way: Way) -> str:
    given = [(name, each) for name, value in way.parameters.items() for each in (value if _many(value) else [value])]
    return " ".join(f"-p {word(f'{name}={value}')}" for name, value in given if value != "")


def _many(value: object) -> bool:
    return isinstance(value, list)


def _use(usage: Usage) -> str:
    return f"{amount(usage.used_bytes)} of {amount(usage.size_bytes)} used, {amount(usage.avail_bytes)} available"


def _ratio(usage: Usage) -> str:
    return "cannot tell" if usage.used_ratio is None else _percent(usage.used_ratio, 1)


def _percent(ratio: float, digits: int = 0) -> str:
    return f"{ratio * 100:.{digits}f} %"


def _size(size: int | None) -> str:
    return "cannot tell" if size is None else amount(size)
