"""The lock on the host: one operator at a time, told by name, gone after a reboot.

A lock is a file whose first line is its token, put in place whole and at once by `ln`, which fails when the name is
taken. Who comes after it - because it was given back, because it is from before a reboot, or because a person took over
a stale one - puts his own under `NAME.TOKEN`, again by `ln`: only one can come after a given token, and the last file
of that chain is the holder's. Nothing is ever removed while another may be reading it, and a file of another user,
which a sticky directory keeps from us, is no hindrance. The holder then moves his file to the first place in the chain
that he may take, and clears away the dead ones: the chain has at most one place for each user.

Every change carries the token and runs only if it is still the last one (`fence`): who has lost the lock changes
nothing any more.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.quoting import shown, text_of, word

LEASE_SECONDS = 3600
LOST_STATUS = 94  # a change that found another holder; it ran nothing
_WALK = """lock=$base/runbooks-lock; walk() { f=$lock h= token= links=0
if [ -L "$f" ] || { [ -e "$f" ] && [ ! -f "$f" ]; }; then token=unreadable h=$f; return; fi
while [ -f "$f" ] && [ ! -L "$f" ]; do
  token=; { read -r token <"$f"; } 2>/dev/null; h=$f
  case $token in ''|*[!0-9a-f]*) token=unreadable; return;; esac
  f=$lock.$token links=$((links+1)); [ $links -lt 500 ] || { token=unreadable; return; }
done; }
walk
"""
# A holder who moves his file to the front may do so between the walk and the reading: then both are done again.
_TELL = """read -r here </proc/sys/kernel/random/boot_id 2>/dev/null || here=
tries=0; while :; do
  [ -n "$h" ] || { echo none; exit 0; }
  was=$token; times="$(stat -c %Y -- "$h" 2>/dev/null) $(date +%s)"
  said=$({ read -r x; cat; } 2>/dev/null <"$h"); walk
  [ "$token" = unreadable ] || [ "$token" != "$was" ] || [ -z "$said" ] || [ "${times# }" != "$times" ] || break
  tries=$((tries+1)); [ $tries -lt 10 ] || break
  sleep 0.1 2>/dev/null || sleep 1
  walk
done
printf '%s\\n%s\\n%s\\n%s\\n' "$token" "$times" "$here" "$said"
exit 0
"""
_ACQUIRE = """
over= boot= lease=
if [ -n "$h" ] && [ "$token" != unreadable ]; then
  { read -r x; read -r boot; read -r lease; } <"$h"
  read -r here </proc/sys/kernel/random/boot_id 2>/dev/null || here=
  if [ "$lease" = 0 ] || [ "$token" = "$expected" ] || { [ -n "$here" ] && [ "$boot" != "$here" ]; }; then over=1; fi
fi
if [ -z "$h" ] || [ -n "$over" ]; then
  part=$base/.runbooks-part.$mine; umask 022
  if [ -z "$h" ]; then target=$lock; else target=$lock.$token; fi
  read -r here </proc/sys/kernel/random/boot_id 2>/dev/null || here=
  set -C
  printf '%s\\n%s\\n%s\\n%s\\n' "$mine" "$here" "$lease_seconds" "$words" >"$part" &&
    ln -- "$part" "$target" 2>/dev/null
  rm -f -- "$part"
  walk
  if [ "$token" = "$mine" ]; then
    to=$lock
    while [ "$to" != "$h" ] && ! mv -f -- "$h" "$to" 2>/dev/null </dev/null; do
      token=; { read -r token <"$to"; } 2>/dev/null; to=${token:+$lock.$token}; to=${to:-$h}
    done
    for f in "$lock".*; do case $f in "$to"|"$lock.$mine") ;; *) rm -f -- "$f" 2>/dev/null;; esac; done
    walk
  fi
fi
"""
_RELEASE = """
[ "$token" = "$mine" ] || { echo lost; exit 0; }
part=$base/.runbooks-part.$next; umask 022; set -C
printf '%s\\n\\n0\\n%s\\n' "$next" '{}' >"$part" && ln -- "$part" "$lock.$mine" 2>/dev/null
rm -f -- "$part"
walk
[ "$token" = "$next" ] && echo free || echo lost
exit 0
"""


@dataclass(frozen=True)
class Holder:
    """Who has the host. `age_seconds` since the lease was last renewed, by the host's clock; None when unreadable."""

    token: str
    who: str
    run: str
    runbook: str
    since: str
    lease_seconds: int
    age_seconds: int
    before_reboot: bool

    @property
    def free(self) -> bool:
        """Given back, or from before a reboot."""
        return self.lease_seconds == 0 or self.before_reboot

    @property
    def stale(self) -> bool:
        """Its lease has run out; the holder may still be alive."""
        return self.age_seconds > self.lease_seconds

    @property
    def words(self) -> str:
        """Who, what, since when."""
        return f"{shown(self.who)}, since {shown(self.since)}, for {shown(self.runbook)} (run {shown(self.run)})"


class HostBusy(RunbookError):
    """Another run has the host."""

    def __init__(self, host: str, holder: Holder) -> None:
        self.holder = holder
        minutes = max(0, holder.lease_seconds - holder.age_seconds) // 60 + 1
        if holder.stale:
            ways = f"if it is dead: the same command with --take-over {word(holder.who)}; that is recorded"
        else:
            ways = f"ask {shown(holder.who)}; if it is dead, its lease ends in {minutes} min and can then be taken over"
        super().__init__(
            f"it is held by {holder.words}", where=host, true_now="this run did nothing on the host", next=ways
        )


class LockUnreadable(RunbookError):
    """The lock's file is not one of ours."""


@dataclass(frozen=True)
class Lock:
    """A lock that was held when it was made. `taken_over` says from whom, if from anybody."""

    token: str
    places: Places
    taken_over: Holder | None = None

    def fence(self) -> str:
        """Shell text that ends with LOST_STATUS unless the lock is still this one, and renews its lease. It sets
        `base`."""
        return (
            self.places.find() + _WALK + f'[ "$token" = {self.token} ] || '
            f'{{ echo "runbooks: the lock is no longer {self.token}" >&2; exit {LOST_STATUS}; }}\n'
            'touch -c -- "$h" 2>/dev/null\n'
        )


def look(host: Host, places: Places) -> Holder | None:
    """Who has the host now; None when nobody ever had. Raises LockUnreadable, HostError."""
    return _holder(host, _run(host, places.find() + _WALK + _TELL, "lock: look", changes=False))


def acquire(
    host: Host,
    places: Places,
    *,
    who: str,
    run: str,
    runbook: str,
    take_over: str | None = None,
    dead: str = "",
    lease_seconds: int = LEASE_SECONDS,
) -> Lock:
    """Take the host's lock for a run.

    A lock of the same run is taken again: its journal is locked by this process, so its holder is dead. So is one whose
    token is `dead`. A stale one is taken over when `take_over` is its holder's name. Raises HostBusy, LockUnreadable,
    HostError.
    """
    found = look(host, places)
    expected = "none"
    if found is not None and not found.free:
        if found.run != run and found.token != dead and not (found.stale and take_over == found.who):
            raise HostBusy(host.name, found)
        expected = found.token
    token = secrets.token_hex(16)
    text = json.dumps(
        {"who": who, "run": run, "runbook": runbook, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    script = places.find() + f"mine={token} expected={expected} lease_seconds={int(lease_seconds)} words={word(text)}\n"
    now = _holder(host, _run(host, script + _WALK + _ACQUIRE + _TELL, "lock: acquire", changes=True))
    if now is None:
        raise RunbookError(
            "the lock could not be written",
            where=host.name,
            true_now="nothing was run on the host",
            next=f"make room in one of {', '.join(places.candidates)} there",
        )
    if now.token != token:
        raise HostBusy(host.name, now)
    return Lock(token, places, found if found is not None and not found.free else None)


def release(host: Host, lock: Lock) -> bool:
    """Give the lock back. False when another had taken it over. Raises HostError."""
    script = lock.places.find() + f"mine={lock.token} next={secrets.token_hex(16)}\n" + _WALK + _RELEASE
    return _run(host, script, "lock: release", changes=True).strip() == "free"


def renew(host: Host, lock: Lock) -> bool:
    """Show that the holder is alive. False when another has taken the lock over. Raises HostError."""
    result = host.run(Script(lock.fence() + "exit 0\n", name="lock: renew", changes=True), deadline_seconds=20.0)
    return result.exit_status != LOST_STATUS


def _run(host: Host, text: str, name: str, *, changes: bool) -> str:
    result = host.run(Script(text, name=name, changes=changes), deadline_seconds=20.0)
    if not result.ok:
        raise RunbookError(
            f"{name} ended with status {result.exit_status}: {shown(text_of(result.stderr).strip())}",
            where=host.name,
            true_now="nothing was run on the host",
            next="look at that directory on the host",
        )
    return text_of(result.stdout)


def _holder(host: Host, answer: str) -> Holder | None:
    lines = answer.split("\n")
    if lines[0] == "none":
        return None
    try:
        token, (renewed, now), here, boot, lease = lines[0], lines[1].split(), lines[2], lines[3], int(lines[4])
        said: dict[str, Any] = json.loads(lines[5])
        if token == "unreadable" or not isinstance(said, dict):  # noqa: S105
            raise ValueError
        return Holder(
            token=token,
            who=str(said.get("who", "")),
            run=str(said.get("run", "")),
            runbook=str(said.get("runbook", "")),
            since=str(said.get("since", "")),
            lease_seconds=lease,
            age_seconds=int(now) - int(renewed),
            before_reboot=bool(here) and bool(boot) and boot != here,
        )
    except (IndexError, ValueError):
        raise LockUnreadable(
            "the lock there is not one that a run wrote",
            where=host.name,
            true_now="nothing was run on the host; who holds it cannot be told",
            next="look at runbooks-lock* in /run/lock, /dev/shm or /tmp on the host, and remove them if they are junk",
        ) from None
