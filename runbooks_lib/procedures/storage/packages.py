"""Downloaded packages that are installed already (apt-get(8), clean; dnf(8), clean packages)."""

from __future__ import annotations

from collections.abc import Iterator

from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.step import Command, Known, NoUndo, Runbook, Step

_LEAST_BYTES = 1024**2
_FOUND = """found=0
for each in /var/cache/apt/archives /var/cache/dnf; do
  [ -d "$each" ] && [ "$(stat -c %d "$each")" = "$(stat -c %d -- "$m")" ] || continue
  here=$(find "$each" -type f \\( -name '*.deb' -o -name '*.rpm' \\) -exec stat -c %b {} + |
    awk '{ n += $1 } END { printf "%.0f", n * 512 }')
  found=$((found + here))
done
"""


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - a cache is as large as it is
    """The packages in the caches of apt and dnf."""
    gain = sum(seen.survey.packages.values())
    if gain < _LEAST_BYTES:
        return
    yield Way(
        "clean-packages",
        "Remove downloaded packages from the cache",
        Safety.RENEWS,
        gain_bytes=gain,
        measured=f"the packages' blocks in {' and '.join(seen.survey.packages)}",
        seconds=5,
        undo="none needed: packages are downloaded again when they are wanted",
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint},
        refused="" if seen.survey.tools & {"apt-get", "dnf"} else "neither apt-get nor dnf is installed on the host",
    )


def _empty(known: Known) -> str:
    return (
        on_mount(known)
        + _FOUND
        + '[ $found -lt 4096 ] && yes "$found bytes of packages"\nno "$found bytes of packages"\n'
    )


def _here(known: Known) -> str:
    return (
        on_mount(known)
        + _FOUND
        + '[ $found -gt 0 ] || no "there is no package in a cache on $m"\n'
        + """for each in /proc/[0-9]*/comm; do read -r name <"$each" || continue
  case $name in apt | apt-get | aptitude | dpkg | dnf | yum | rpm | unattended-upgr)
    no "$name is running (${each%/comm})";; esac
done 2>/dev/null
yes "$found bytes of packages, and nobody is installing"
"""
    )


CLEAN = Step(
    name="clean",
    title="Remove downloaded packages",
    why="They are installed already; only their files are left.",
    prechecks=(patient("there are packages and nobody is installing", _here),),
    commands=lambda _: [
        Command(
            "if [ -d /var/cache/apt/archives ]; then apt-get clean </dev/null || exit 1; fi\n"
            "if [ -d /var/cache/dnf ]; then dnf clean packages </dev/null || exit 1; fi\n",
            "downloaded packages in /var/cache",
            root=True,
        )
    ],
    verify=patient("the caches hold no package", _empty),
    undo=NoUndo("Packages are downloaded again when they are wanted.", "nothing.", harmless=True),
    deadline_seconds=120,
)

RUNBOOK = Runbook(
    name="clean-packages",
    version="1",
    title="Remove downloaded packages from the cache",
    purpose="A package cache takes space that is needed at once.",
    not_when="Somebody is installing; or the host has no way to a package server, and its cache is the only copy.",
    takes="Seconds.",
    undo_takes="Nothing has to be undone.",
    parameters=(filesystem.MOUNTPOINT,),
    steps=(CLEAN,),
    refuses=filesystem.refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
