"""What a practice machine is for, and the disks of each role, prepared once and kept beside the image.

A role's disks are made by starting the image once with the role's script on its seed disk: the same kernel, LVM and
PostgreSQL make them that use them later. Machines are copy-on-write overlays of these disks.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.training.lab.image import Image, Say, guest_text, making
from runbooks_lib.training.lab.needs import acceleration, program, require_memory
from runbooks_lib.training.lab.places import Places
from runbooks_lib.training.lab.qemu import (
    DATA_DISK_MB,
    SPARE_DISK_MB,
    SWAP_DISK_MB,
    Disks,
    Start,
    command_line,
    disks_in,
    make_disk,
    make_overlay,
    spawn,
)
from runbooks_lib.training.lab.seed import SeedFile, write_seed
from runbooks_lib.training.lab.standstill import Standstill

PREPARE_SECONDS = 1800  # a busy machine without KVM has been seen to need more than 900
PREPARE_MEMORY_MB = 1024
FILESYSTEMS = ("ext4", "xfs")


@dataclass(frozen=True)
class Role:
    """A kind of machine: the script that makes it, the files that the script finds, the ports that are forwarded, and
    the database's roles that log in with a password, which is made for each machine."""

    name: str
    sentence: str
    script: str
    files: tuple[tuple[str, str], ...]  # guest file, path in the machine
    ports: tuple[str, ...]
    logins: tuple[str, ...] = ()


BUILD_SERVER = Role(
    "build-server",
    "a build server with its database on a small logical volume, and free space in the volume group",
    "role-build-server.sh",
    (
        ("build_server.py", "usr/local/lib/lab/build_server.py"),
        ("build_server.sql", "usr/local/lib/lab/build_server.sql"),
        ("build-server.service", "etc/systemd/system/build-server.service"),
    ),
    ("ssh", "http", "postgres", "pgbouncer", "alertmanager"),
    ("buildserver", "replicator"),
)
DATABASE = Role(
    "database",
    "an empty database host: PostgreSQL without a cluster, and a volume for one",
    "role-database.sh",
    (),
    ("ssh", "postgres"),
)
ROLES = {role.name: role for role in (BUILD_SERVER, DATABASE)}


@dataclass(frozen=True)
class Prepared:
    """A role's disks, never written again. `seconds` is how long preparing took."""

    directory: Path
    key: str
    seconds: float

    @property
    def disks(self) -> Disks:
        return disks_in(self.directory)


def role(name: str) -> Role:
    """The role of that name. Raises UsageError."""
    if name not in ROLES:
        raise UsageError(f"there is no role {name!r}", next=f"choose {' or '.join(ROLES)}")
    return ROLES[name]


def ensure_prepared(where: Places, image: Image, wanted: Role, filesystem: str, say: Say) -> Prepared:
    """The role's disks, made now if they are not there. Raises UsageError for a filesystem that is none of
    FILESYSTEMS, RunbookError when preparing fails (then nothing is left of it)."""
    if filesystem not in FILESYSTEMS:
        raise UsageError(f"the database's filesystem cannot be {filesystem!r}", next="choose ext4 or xfs")
    script = f"FILESYSTEM={filesystem}\n{guest_text(wanted.script)}"
    files = [SeedFile(path, guest_text(source)) for source, path in wanted.files]
    digest = hashlib.sha256(
        "\0".join([image.key, str(DATA_DISK_MB), str(SPARE_DISK_MB), str(SWAP_DISK_MB), script]).encode()
    )
    for file in files:
        digest.update(f"\0{file.path}\0{file.text}".encode())
    key = digest.hexdigest()[:16]
    directory = where.images / f"{wanted.name}-{filesystem}-{key}"
    with making(directory, say) as fresh:
        if fresh is not None:
            require_memory(PREPARE_MEMORY_MB)
            say(f"preparing the role {wanted.name} on {filesystem}; this happens once")
            begin = time.monotonic()
            _prepare(fresh, image, [*files, SeedFile("etc/lab/prepare", script)])
            (fresh / "seconds").write_text(f"{time.monotonic() - begin:.1f}\n", encoding="ascii")
    return Prepared(directory, key, float((directory / "seconds").read_text(encoding="ascii")))


def _prepare(directory: Path, image: Image, files: list[SeedFile]) -> None:
    disks = Prepared(directory, "", 0).disks
    make_overlay(disks.root, image.root, "raw")
    make_disk(disks.data, DATA_DISK_MB)
    make_disk(disks.spare, SPARE_DISK_MB)
    _make_swap(disks.swap)
    write_seed(disks.seed, files)
    start = Start("prepare", directory, acceleration(), PREPARE_MEMORY_MB, {}, None, 0)
    qemu = spawn(command_line(image, disks, start), directory)
    console = directory / "console.log"
    standstill, end = Standstill(directory), time.monotonic() + PREPARE_SECONDS
    try:
        while qemu.poll() is None:
            if time.monotonic() > end:
                raise RunbookError(
                    f"preparing has not ended in {PREPARE_SECONDS // 60} minutes; the console ends:\n{_tail(console)}",
                    true_now="the machine was ended and nothing was kept",
                )
            standstill.look()
            time.sleep(0.5)
    finally:
        # `timeout` passes SIGTERM on to qemu; the SIGKILL that it uses at its own end it could not pass on.
        if qemu.poll() is None:
            qemu.terminate()
            qemu.wait(timeout=30)
    said = console.read_text(errors="replace") if console.exists() else ""
    if "lab: prepared" not in said:
        log = (directory / "qemu.log").read_text(errors="replace").strip()
        raise RunbookError(
            f"preparing failed; the console's end:\n{_tail(console)}{log and chr(10) + log}",
            true_now="the machine was ended and nothing was kept",
        )
    disks.seed.unlink()  # the image key covers it; each machine brings its own


def _make_swap(path: Path) -> None:
    raw = path.with_suffix(".raw")
    with raw.open("wb") as empty:
        os.truncate(empty.fileno(), SWAP_DISK_MB * 1024**2)
    subprocess.run([program("mkswap"), "-q", str(raw)], check=True, capture_output=True, timeout=30)
    subprocess.run(
        [program("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    raw.unlink()


def _tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(errors="replace") if path.exists() else "(no console)"
    return "\n".join(f"        {line}" for line in text.splitlines()[-lines:])
