"""Timers that collect and report: systemd units, or crontab lines where there is no systemd. Shown first, then written.

A report under cron is called every hour and runs when it is due, so that it catches up with a run that was missed while
the machine was off.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from runbooks_lib.config import Config
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.reports import expected
from runbooks_lib.reports.expected import Expectation
from runbooks_lib.reports.index import last_started

_SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)
_COMMAND_SECONDS = 30

Kind = Literal["systemd", "cron"]


@dataclass(frozen=True)
class Schedule:
    """What would be written and run. `files` maps a path to its text (systemd), `lines` are those of the crontab.

    The timer that collects belongs to all reports of one inventory: `undo`, `removed` and `markers` are without it as
    long as another report is expected.
    """

    kind: Kind
    directory: Path
    files: Mapping[Path, str]
    lines: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    undo: tuple[tuple[str, ...], ...]
    removed: tuple[Path, ...]
    markers: tuple[str, ...]  # how the crontab lines end that `remove` takes away, and `install` first
    expected: Path
    expectation: Expectation
    advice: str

    def describe(self) -> str:
        """Every file and line, exactly as it would be written, and every command."""
        parts = [f"# {path}\n{text}" for path, text in self.files.items()]
        if self.lines:
            at = self.expectation.at
            parts.append(
                f"# crontab: the report is called every hour and runs once a day, from {at} on\n"
                + "\n".join(self.lines)
                + "\n"
            )
        parts += [f"# {shlex.join(command)}\n" for command in self.commands]
        return "\n".join(parts)


def plan(
    config: Config,
    *,
    now: datetime,
    report: str = "disk-report",
    at: str = "05:30",
    every_minutes: int = 5,
    arguments: Sequence[str] = (),
    asked: str | None = None,
    deadline_seconds: float | None = None,
    kind: Kind | None = None,
) -> Schedule:
    """The timers for collecting every `every_minutes` and for one report a day. Writes nothing.

    `arguments` are further ones of `runbook report`, `asked` what a run with them records (`run.asked`), and
    `deadline_seconds` its deadline where it is not the usual one.
    Raises UsageError for a time, an interval or a deadline that cannot be.
    """
    if deadline_seconds is not None and not 0 < deadline_seconds <= 86_400:
        raise UsageError("a daily report's deadline is more than 0 seconds and at most a day")
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", at):
        raise UsageError(f"{at!r} is not a time of day", next="write hours and minutes, such as 05:30")
    if not 1 <= every_minutes <= 60 or 60 % every_minutes:
        raise UsageError(
            f"collecting every {every_minutes} minutes does not divide an hour", next="choose 1, 2, 5, 10, 15, 30 or 60"
        )
    for text in (str(config.file), *arguments):
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise UsageError(f"{text!r} holds a control character, which no timer can carry", where=str(config.file))
    digest = hashlib.sha256(str(config.file).encode()).hexdigest()[:8]
    runbook = (sys.executable, "-m", "runbooks_lib")
    collect = (*runbook, "collect", "--quiet", "--config", str(config.file))
    publish = (*runbook, "report", report, "--config", str(config.file), *arguments)
    if deadline_seconds is not None:
        publish += ("--deadline", f"{deadline_seconds:g}")
    kind = kind or ("systemd" if _SYSTEMD_RUNS.is_dir() else "cron")
    expectation = Expectation(report, at, now, tuple(arguments), ", ".join(arguments[1::2]) if asked is None else asked)
    make = _systemd if kind == "systemd" else _cron
    return make(config, digest, collect, publish, every_minutes, expectation, _allowed(deadline_seconds))


def _others(config: Config, report: str) -> bool:
    return bool(expected.expectations(config.outputs).keys() - {report})


def _allowed(deadline_seconds: float | None) -> str:
    """How long systemd lets a report run: the report ends itself before, and says so on its page."""
    return f"{max(60, math.ceil((deadline_seconds or 0) / 60) + 10)}min"


def install(schedule: Schedule) -> None:
    """Write the timers and start them; doing it again changes nothing. Raises RunbookError, with what is true now."""
    try:
        if schedule.kind == "systemd":
            for path, text in schedule.files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        else:
            ours = {*schedule.markers, *map(_marker_of, schedule.lines)}
            kept = [line for line in _crontab() if _marker_of(line) not in ours]
            _write_crontab([*kept, *schedule.lines])
        expected.expect(schedule.expected, schedule.expectation)
    except OSError as error:
        raise RunbookError(
            f"the timers were not written: {error}",
            where=str(schedule.directory),
            true_now="some files may be there; nothing was started",
            next="mend that and call `runbook schedule --install` again, or `--remove`",
        ) from error
    for command in schedule.commands:
        _call(command)


def remove(schedule: Schedule) -> None:
    """Stop and remove what `install` wrote; what is not there is fine."""
    if schedule.kind == "systemd":
        present = [path for path in schedule.removed if path.exists()]
        if present:
            for command in schedule.undo:
                _call(command)
            for path in present:
                path.unlink(missing_ok=True)
            _call(_systemctl("daemon-reload"))
    else:
        before = _crontab()
        kept = [line for line in before if _marker_of(line) not in schedule.markers]
        if kept != before:
            _write_crontab(kept)
    expected.forget(schedule.expected, schedule.expectation.report)


def is_due(outputs: Path, report: str, *, now: datetime | None = None) -> bool:
    """Whether a report should run now: it is expected, and no run that counts was started since it was last due.

    A report that nobody expects is always due.
    """
    known = expected.expectations(outputs).get(report)
    if known is None:
        return True
    return known.due(last_started(outputs, report, asked=known.asked), now or datetime.now(UTC))


# -- systemd -----------------------------------------------------------------------------------------------------------


def _systemd(
    config: Config,
    digest: str,
    collect: tuple[str, ...],
    publish: tuple[str, ...],
    every_minutes: int,
    expectation: Expectation,
    allowed: str,
) -> Schedule:
    root = os.geteuid() == 0
    directory = (
        Path("/etc/systemd/system")
        if root
        else Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "systemd/user"
    )
    names = {"collect": f"runbook-{digest}-collect", "report": f"runbook-{digest}-{expectation.report}"}
    told = f"{names['report']}-failed@"
    tell = (*publish[:3], "notify", "unit-failed", "--report", expectation.report, "--config", str(config.file))
    files = {
        directory / f"{names['collect']}.service": _service(
            f"Runbook: read the hosts of {config.file}", collect, config, "10min"
        ),
        directory / f"{names['collect']}.timer": _timer(
            f"Runbook: every {every_minutes} minutes", f"*:0/{every_minutes}" if every_minutes < 60 else "hourly", 20
        ),
        directory / f"{names['report']}.service": _service(
            f"Runbook: {expectation.report} of {config.file}", publish, config, allowed, told
        ),
        directory / f"{names['report']}.timer": _timer(
            f"Runbook: {expectation.report} every day", f"*-*-* {expectation.at}:00", 300
        ),
        # What a killed run cannot say itself. A failed collection is told by the report: its host's numbers are old.
        directory / f"{told}.service": _service(
            "Runbook: tell that a report failed", tell, config, "5min", instance=True
        ),
    }
    timers = [f"{name}.timer" for name in names.values()]
    shared = _others(config, expectation.report)
    advice = (
        ""
        if root
        else "A user's timers stop at logout unless an administrator has said once: "
        f"loginctl enable-linger {os.environ.get('USER', '$USER')}"
    )
    return Schedule(
        kind="systemd",
        directory=directory,
        files=files,
        lines=(),
        commands=(_systemctl("daemon-reload"), _systemctl("enable", "--now", *timers)),
        undo=(_systemctl("disable", "--now", *(timers[1:] if shared else timers)),),
        removed=(
            *(path for path in files if not shared or path.stem != names["collect"]),
            directory / f"runbook-{digest}-failed@.service",  # as it was called when a report had to be the only one
        ),
        markers=(),
        expected=config.outputs / expected.FILE_NAME,
        expectation=expectation,
        advice=advice,
    )


def _service(
    description: str,
    command: Sequence[str],
    config: Config,
    deadline: str,
    on_failure: str = "",
    *,
    instance: bool = False,
) -> str:
    """A unit that runs once. `on_failure` is the template that is started with this unit's name when it fails,
    `instance` makes this unit one: the name is its last argument."""
    line = " ".join(_systemd_quoted(word) for word in command) + (' "%i"' if instance else "")
    failing = f"OnFailure={on_failure}%n.service\n" if on_failure else ""
    # Exit code 3 says that a threshold is crossed: the report did its work, the unit has not failed.
    return f"""\
[Unit]
Description={_specifiers(description)}
Wants=network-online.target
After=network-online.target
{failing}
[Service]
Type=oneshot
ExecStart={line}
WorkingDirectory={_specifiers(str(config.file.parent))}
SuccessExitStatus=3
TimeoutStartSec={deadline}
Nice=10
UMask=0077
"""


def _timer(description: str, calendar: str, delay_seconds: int) -> str:
    return f"""\
[Unit]
Description={_specifiers(description)}

[Timer]
OnCalendar={calendar}
Persistent=true
RandomizedDelaySec={delay_seconds}

[Install]
WantedBy=timers.target
"""


def _systemctl(*arguments: str) -> tuple[str, ...]:
    return ("systemctl", *(() if os.geteuid() == 0 else ("--user",)), *arguments)


def _specifiers(text: str) -> str:
    """systemd.unit(5): a percent sign begins a specifier."""
    return text.replace("%", "%%")


def _systemd_quoted(word: str) -> str:
    """One word of ExecStart (systemd.service(5), "Command lines"): quotes, backslash, $ and % mean something there."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return _specifiers(f'"{escaped}"')


# -- cron --------------------------------------------------------------------------------------------------------------


def _cron(
    config: Config,
    digest: str,
    collect: tuple[str, ...],
    publish: tuple[str, ...],
    every_minutes: int,
    expectation: Expectation,
    _: str,
) -> Schedule:
    collects, publishes = f"# runbook {digest} collect", f"# runbook {digest} report {expectation.report}"
    log = _cron_word(str(config.outputs / "cron.log"))
    # cron knows no missed runs: the report is asked for every hour, and `--if-due` makes it once a day.
    minute = int(expectation.at.split(":")[1])
    lines = (
        f"{'*/' + str(every_minutes) if every_minutes < 60 else '0'} * * * * {_cron_quoted(collect)} "
        f">>{log} 2>&1 {collects}",
        f"{minute} * * * * {_cron_quoted((*publish, '--if-due'))} >>{log} 2>&1 {publishes}",
    )
    return Schedule(
        kind="cron",
        directory=Path("crontab"),
        files={},
        lines=lines,
        commands=(),
        undo=(),
        removed=(),
        # Lines that were written when a report had to be the only one end with the shortest of these.
        markers=(f"# runbook {digest}", publishes, *(() if _others(config, expectation.report) else (collects,))),
        expected=config.outputs / expected.FILE_NAME,
        expectation=expectation,
        advice="",
    )


def _marker_of(line: str) -> str:
    return line[line.rfind("# runbook ") :] if "# runbook " in line else ""


def _cron_quoted(command: Sequence[str]) -> str:
    return " ".join(_cron_word(word) for word in command)


def _cron_word(word: str) -> str:
    r"""A word for sh, in a crontab line (crontab(5)): a percent sign is a newline there unless it is written \%.

    Inside quotes sh would keep a backslash that cron has left, so the quotes are closed round it.
    """
    quoted = shlex.quote(word)
    return quoted.replace("%", "\\%" if quoted == word else "'\\%'")


def _crontab() -> list[str]:
    try:
        found = subprocess.run(
            ["crontab", "-l"],
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise RunbookError(
            "there is neither systemd nor crontab on this machine",
            true_now="nothing was scheduled",
            next="install cron, or call the shown commands from the scheduler that you have",
        ) from error
    # "no crontab for …" (cron) and "can't open …: No such file" (busybox) are an empty crontab. Whoever takes another
    # failure for one would write over all lines.
    said = found.stderr.decode("utf-8", "replace").strip()
    if found.returncode and said and "no crontab" not in said.lower() and "No such file" not in said:
        raise RunbookError(f"the crontab cannot be read: {said}", true_now="the crontab is as it was")
    return found.stdout.decode("utf-8", "surrogateescape").splitlines()


def _write_crontab(lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    done = subprocess.run(["crontab", "-"], input=text, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
    if done.returncode:
        raise RunbookError(
            f"crontab refuses the lines: {done.stderr.decode('utf-8', 'replace').strip()}",
            true_now="the crontab is as it was",
        )


# -- common ------------------------------------------------------------------------------------------------------------


def _call(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
        said = done.stderr.decode("utf-8", "replace").strip()
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, said = True, str(error)
    if failed:
        raise RunbookError(
            f"`{shlex.join(command)}` failed: {said}",
            true_now="the files are written, the timers may not run",
            next="mend that and call `runbook schedule --install` again, or `--remove`",
        )
