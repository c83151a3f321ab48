"""Real filesystems on loop devices of this machine, made for one test."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.relocate.here import unmount

MIB = 2**20


def run(*command: str, text: str = "") -> str:
    """What a command says; its own words when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class LoopDisk:
    """A loop device, and the file that it is."""

    device: str
    file: Path

    def enlarge(self, mib: int) -> None:
        with self.file.open("r+b") as file:
            file.truncate(mib * MIB)
        run("losetup", "-c", self.device)


@contextlib.contextmanager
def loop_disk(directory: Path, name: str, mib: int) -> Iterator[LoopDisk]:
    file = directory / f"{name}.img"
    with file.open("wb") as made:
        made.truncate(mib * MIB)
    device = run("losetup", "--find", "--show", "--partscan", str(file)).strip()
    try:
        yield LoopDisk(device, file)
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: str, fstype: str, mountpoint: Path, *options: str) -> Iterator[Path]:
    """A new filesystem at a new directory."""
    run(f"mkfs.{fstype}", "-q", "-F" if fstype == "ext4" else "-f", *options, device)
    mountpoint.mkdir(parents=True)
    run("mount", device, str(mountpoint))
    try:
        yield mountpoint
    finally:
        unmount(mountpoint)


def fill(mountpoint: Path) -> None:
    """To the last block that root may have."""
    with contextlib.suppress(OSError), (mountpoint / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)
    with contextlib.suppress(OSError), (mountpoint / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
