"""What a practice machine needs of this machine: programs, memory, space; each missing thing is one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from runbooks_lib.errors import RunbookError, UsageError

ACCELERATION_ENVIRONMENT = "RUNBOOKS_LAB_ACCEL"
ACCELERATIONS = ("kvm", "tcg")
QEMU = "qemu-system-x86_64"
_PACKAGES = {
    QEMU: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mkswap": "util-linux",
    "tar": "tar",
    "ssh-keygen": "openssh-client",
    "fakeroot": "fakeroot",
    "newuidmap": "uidmap",
}
RUN_PROGRAMS = (QEMU, "qemu-img", "ssh-keygen")
USER_BUILD_PROGRAMS = ("fakeroot", "newuidmap")  # of who is not root
BUILD_PROGRAMS = ("mmdebstrap", "mke2fs", "mkswap", "tar")
BUILD_SPACE_BYTES = 3 * 1024**3  # the archive, the unpacked tree and the image stand side by side for a moment
RUN_SPACE_BYTES = 1024**3  # what a machine writes in a drill, and its saved memory
SPARE_MEMORY_BYTES = 256 * 1024**2

# A boot sector that says 0x10 to isa-debug-exit (qemu ends with status 0x10 * 2 + 1) and halts.
_PROBE = bytes.fromhex("baf400 b010 ee f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
_PROBE_STATUS = 33


class LabUnavailable(RunbookError):
    """This machine lacks something that a practice machine needs; nothing was started."""


def require_programs(programs: tuple[str, ...]) -> None:
    """Raises LabUnavailable with the names of the packages of all that are missing."""
    missing = [program for program in programs if _which(program) is None]
    if missing:
        packages = sorted({_PACKAGES[program] for program in missing})
        raise LabUnavailable(
            f"a practice machine needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not here",
            true_now="nothing was started",
            next=f"as root: apt-get install --no-install-recommends {' '.join(packages)}",
        )


def program(name: str) -> str:
    """Where a program is; mke2fs and mkswap are found for ordinary users too, whose PATH lacks /usr/sbin."""
    found = _which(name)
    if found is None:
        require_programs((name,))
    return found or name


def require_space(directory: Path, needed_bytes: int, purpose: str) -> None:
    """Raises LabUnavailable when the filesystem of `directory` has less than `needed_bytes` free for us."""
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise LabUnavailable(
            f"{purpose} needs {needed_bytes / 1e9:.1f} GB of disk space and {free / 1e9:.1f} GB are free",
            where=str(directory),
            true_now="nothing was started",
            next="free some, or set $RUNBOOKS_LAB_DIR elsewhere; `runbook lab-host clean` removes images",
        )


def require_memory(memory_mb: int) -> None:
    """Raises LabUnavailable when a machine of this size does not fit beside what runs here."""
    available = _memory_available()
    needed = memory_mb * 1024**2 + SPARE_MEMORY_BYTES
    if available is not None and available < needed:
        raise LabUnavailable(
            f"a practice machine of {memory_mb} MB does not fit: {available // 1024**2} MB of memory are available",
            true_now="nothing was started",
            next="end another one (`runbook lab-host list`, `runbook lab-host down NAME`) or close something big",
        )


@cache
def acceleration() -> str:
    """`kvm` when a guest really runs under it here and does not run slower than emulated, else `tcg`.

    $RUNBOOKS_LAB_ACCEL decides when set. /dev/kvm alone proves nothing: inside some virtual machines it is there and
    each exit costs milliseconds, so that emulation is the faster of the two; hence both are tried with a boot sector.
    Raises UsageError for another name in the variable.
    """
    asked = os.environ.get(ACCELERATION_ENVIRONMENT, "")
    if asked:
        if asked not in ACCELERATIONS:
            raise UsageError(f"${ACCELERATION_ENVIRONMENT} is {asked!r}; it can be {' or '.join(ACCELERATIONS)}")
        return asked
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with_kvm, emulated = _probe("kvm"), _probe("tcg")
    if with_kvm is None:
        return "tcg"
    return "kvm" if emulated is None or with_kvm < 2 * emulated + 0.5 else "tcg"


def tsc_khz(cpuinfo: str | None = None) -> int | None:
    """The rate of this machine's time stamp counter in kHz; None where the kernel does not say it.

    In a virtual machine without aperf/mperf the kernel writes just this rate as `cpu MHz`; elsewhere it is the core's
    momentary one (Linux, arch/x86/kernel/cpu/proc.c).
    """
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if cpuinfo is None else cpuinfo
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    rate = re.search(r"^cpu MHz\s*:\s*([0-9.]+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    if rate is None or not {"hypervisor", "constant_tsc"} <= known or "aperfmperf" in known:
        return None
    return round(float(rate[1]) * 1000)


def _probe(acceleration: str) -> float | None:
    """Seconds from qemu's start until a boot sector has run; None when it did not within five seconds."""
    with tempfile.TemporaryDirectory(prefix="runbooks-lab-") as directory:
        sector = Path(directory) / "sector.img"
        sector.write_bytes(_PROBE)
        begin = time.monotonic()
        try:
            ended = subprocess.run(
                [QEMU, "-accel", acceleration, "-M", "pc", "-m", "64", "-display", "none", "-nodefaults",
                 "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-boot", "a",
                 "-drive", f"file={sector},format=raw,if=floppy"],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return time.monotonic() - begin if ended.returncode == _PROBE_STATUS else None


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def _memory_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
