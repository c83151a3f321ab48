"""How fast the disks give what is to be copied: measured before a copy, on its own files, and only by reading.

What is read goes past the page cache (open(2), O_DIRECT): memory does not answer in the disk's place, and nothing that
others need is driven out of it. Where the disk's scheduler knows priorities, everybody else comes first
(ioprio_set(2), the idle class). A disk may be limited by bytes or by operations, so large files are read in parts of
128 KiB, as the kernel reads ahead by default, and small ones each by itself. The large ones come first: they use up
what a limit allows for a moment beyond itself.

Of the target nothing can be read but its device; what it takes is tried by the copy itself, which may write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from runbooks_lib.runbook.quoting import text_of
from runbooks_lib.runbook.step import Known, Read

PART_BYTES = 128 * 1024
MEASURE_SECONDS = 1  # of each kind of file, and of the target
_PARTS, _MOST_PARTS, _MOST_RUNS = 16, 128, 32  # runs of 2 MB, 16 MB of a file, 64 MB in all
_MOST_LARGE, _MOST_SMALL = 8, 24  # files
_STUCK_SECONDS = 10  # for one run: what takes longer counts as so long
_SLOWEST, _FASTEST = 50e6, 400e6  # bytes/s: a disk of today that nobody measured, and what a copy does at most
_OTHERS_WORK = 2.5  # times as long as alone
# The last checkpoint of a small, busy database on a disk of 12 operations a second: docs/relocate.md, "Measured".
_LEAST_OPERATIONS, _MOST_OPERATIONS = 70, 300
_SLOW_OPERATION_SECONDS = 0.03  # a disk with heads needs a third of that

_FUNCTIONS = f"""LC_ALL=C; export LC_ALL
renice -n 19 -p $$ >/dev/null 2>&1; ionice -c 3 -p $$ 2>/dev/null
up() {{ read -r now x </proc/uptime; now=${{now%.*}}${{now#*.}}; }}
reads() {{ # KIND FILE COUNT: runs of so many parts, one after another, while there is time
  at=0 x=0
  [ "$1" = target ] || {{ [ -f "$2" ] && [ ! -L "$2" ]; }} || return 0 # it may have become a device meanwhile
  while [ $x = 0 ] && [ $runs -lt {_MOST_RUNS} ] && up && [ "$now" -lt $until ]; do
    runs=$((runs + 1))
    said=$(timeout {_STUCK_SECONDS} dd if="$2" of=/dev/null iflag=direct bs={PART_BYTES} count=$3 skip=$at 2>&1); x=$?
    at=$((at + $3)) said=${{said##*
}}
    [ $x != 124 ] || said='0 bytes copied, {_STUCK_SECONDS} s'
    case $x$said in 0[1-9]*|124*) echo "$1 $said";; esac
    case $said in "$(($3 * {PART_BYTES})) "*) ;; *) return;; esac
    [ $3 != 1 ] && [ $at -lt {_MOST_PARTS} ] || return
  done
}}
rates() {{ # NAME TARGET DIRECTORY…: how much is there, and how fast it comes
  name=$1 to=${{2%/*}}/; shift 2
  # A name with a newline could name another file in its second line: it is counted, and not read.
  list=$(find "$@" -xdev $PRUNE -type f -size +0 \\( -path "*
*" -printf '%s\\n' -o -printf '%s %p\\n' \\) 2>/dev/null | awk -v name="$name" '
    function keep(kind, count, most) {{ # each file is as likely to be chosen as another
      if (count <= most) chosen[kind, count] = $0
      else if ((i = int(rand() * count) + 1) <= most) chosen[kind, i] = $0 }}
    BEGIN {{ srand() }}
    {{ size = $1; bytes += size; named = / /; sub(/^[0-9]+ /, "") }}
    size > {PART_BYTES} {{ large += size; if (named) keep("large", ++larges, {_MOST_LARGE}) }}
    size <= {PART_BYTES} {{ smalls++; if (named) keep("small", ++named_smalls, {_MOST_SMALL}) }}
    END {{ printf "place %s %.0f %d %.0f\\n", name, bytes, smalls, large
      for (each in chosen) {{ split(each, key, SUBSEP); print key[1] " " chosen[each] }} }}')
  printf '%s\\n' "$list" | grep '^place '
  for kind in large small; do
    printf '%s\\n' "$list" | {{
      runs=0; up; until=$((now + {MEASURE_SECONDS * 100}))
      while IFS= read -r line; do case $line in
        "$kind "*) reads $kind "${{line#* }}" $([ $kind = small ] && echo 1 || echo {_PARTS});;
      esac; done; }}
  done
  disk=$(findmnt -n -o SOURCE -T "$to" 2>/dev/null); disk=${{disk%%\\[*}}
  if [ -b "$disk" ]; then runs=0; up; until=$((now + {MEASURE_SECONDS * 100})); reads target "$disk" {_PARTS}; fi
  return 0
}}
"""
_RUN = re.compile(r"(large|small|target) ([0-9]+) bytes?.* copied, ([0-9.e+-]+) s")


def read_rates(calls: Callable[[Known], str], *, without: str = "") -> Read:
    """The read `rates`. `calls` gives shell text that calls `rates NAME TARGET DIRECTORY…` for each place: the files
    below the directories, but for those in a directory called `without`, and the disk on which TARGET will be."""
    prune = f"-name {without} -prune -o" if without else ""
    return Read(
        "rates", lambda known: f"PRUNE='{prune}'\n{_FUNCTIONS}{calls(known)}", parse_rates, root=True,
        deadline_seconds=600,
    )  # fmt: skip


def parse_rates(answer: bytes) -> dict[str, dict[str, float | None]]:
    """By place: `bytes`, `small` (files of 128 KiB or less), `large_bytes`, and as measured, or None: `small_seconds`
    for each small file, `bytes_per_second` of large ones, `target_bytes_per_second`. Raises ValueError."""
    found: dict[str, dict[str, float | None]] = {}
    spent: dict[str, tuple[float, float, int]] = {}
    for line in text_of(answer).splitlines():
        if line.startswith("place "):
            _, name, total, small, large = line.split()
            place = {"bytes": float(total), "small": float(small), "large_bytes": float(large)}
            found[name] = {**place, **_measured({})}
            spent = {}
        elif match := _RUN.match(line):
            amount, seconds, runs = spent.get(match[1], (0.0, 0.0, 0))
            spent[match[1]] = (amount + float(match[2]), seconds + float(match[3]), runs + 1)
            name = list(found)[-1]
            found[name] = {**found[name], **_measured(spent)}
    return found


def _measured(spent: Mapping[str, tuple[float, float, int]]) -> dict[str, float | None]:
    """From bytes, seconds and runs, by kind."""

    def rate(kind: str) -> float | None:
        amount, seconds, _ = spent.get(kind, (0.0, 0.0, 0))
        return max(amount, 1.0) / seconds if seconds else None

    _, seconds, runs = spent.get("small", (0.0, 0.0, 0))
    return {
        "small_seconds": seconds / runs if runs else None,
        "bytes_per_second": rate("large"),
        "target_bytes_per_second": rate("target"),
    }


def copying_seconds(
    rates: Mapping[str, Mapping[str, float | None]], size_bytes: float, throttle_mb: int
) -> tuple[float, float]:
    """From and to how many seconds a copy of `size_bytes` takes: as long as the slowest of source, target and throttle.
    The second is much longer, since others work as well; what was not measured counts as a disk of today."""
    throttled = size_bytes / (throttle_mb * 2**20) if throttle_mb else 0.0
    measured = sum(max(_source_seconds(each), _target_seconds(each)) for each in rates.values())
    return (
        max(measured, throttled, size_bytes / _FASTEST),
        max(_OTHERS_WORK * measured, throttled, size_bytes / _SLOWEST) + 2,
    )


def _source_seconds(place: Mapping[str, float | None]) -> float:
    rate = place["bytes_per_second"] or math.inf
    each = place["small_seconds"]
    if each is None:
        each = PART_BYTES / rate
    return (place["small"] or 0) * each + (place["large_bytes"] or 0) / rate


def _target_seconds(place: Mapping[str, float | None]) -> float:
    return (place["bytes"] or 0) / (place["target_bytes_per_second"] or math.inf)


def rates_words(rates: Mapping[str, Mapping[str, float | None]]) -> str:
    """What was measured, for a person: a sentence for each place, without a full stop."""
    return "\n".join(_place_words(name, each) for name, each in rates.items()) or _UNMEASURED


_UNMEASURED = "how fast the disks are could not be measured"


def _place_words(name: str, place: Mapping[str, float | None]) -> str:
    large, small, target = (place[key] for key in ("bytes_per_second", "small_seconds", "target_bytes_per_second"))
    gives = [f"{megabytes(large)} of large files"] if large else []
    gives += [f"{_number(1 / small)} small files a second (there are {place['small']:.0f})"] if small else []
    said = [f"the disk gives {' or '.join(gives)}"] if gives else []
    said += [f"the new one reads {megabytes(target)}; what it takes is tried before copying"] if target else []
    return (f"{name}: " if name != "." else "") + ("now, " + "; ".join(said) if said else _UNMEASURED)


def megabytes(rate: float) -> str:
    """`0.8 MB/s`."""
    return f"{_number(rate / 1e6)} MB/s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def pause_words(rates: Mapping[str, Mapping[str, float | None]]) -> str:
    """How long clients of a database wait while it is switched to a standby: `about a second`, or what a slow disk
    makes of it."""
    slowest = max((each["small_seconds"] or 0.0 for each in rates.values()), default=0.0)
    if slowest < _SLOW_OPERATION_SECONDS:
        return "about a second"
    least, most = (1 + operations * slowest for operations in (_LEAST_OPERATIONS, _MOST_OPERATIONS))
    return (
        f"about {least:.0f} to {most:.0f} s (the last checkpoint has to reach a disk that takes "
        f"{slowest * 1000:.0f} ms for each operation)"
    )
