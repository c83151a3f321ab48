"""How a practice machine is started: qemu's command line and its disks."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab import needs
from runbooks_lib.training.lab.image import Image
from runbooks_lib.training.lab.needs import QEMU, program
from runbooks_lib.training.lab.qmp import SOCKET

DATA_DISK_MB = 4096
SWAP_DISK_MB = 512
SPARE_DISK_MB = 4096
DATA_DEVICE = "data-disk"  # qemu's name of the disk that holds the database, for throttling
OPERATOR_CARD, LINK_CARD = "card0", "card1"
LOOPBACK = "127.0.0.1"
GUEST_PORTS = {"ssh": 22, "http": 8111, "postgres": 5432, "pgbouncer": 6432, "alertmanager": 9093}
LIFETIME_SECONDS = 12 * 3600  # a machine that everybody has forgotten ends by itself


@dataclass(frozen=True)
class Disks:
    """The files of a machine's disks. All but the seed are qcow2. The spare one is empty: a new disk, just put in."""

    root: Path
    data: Path
    swap: Path
    seed: Path
    spare: Path


@dataclass(frozen=True)
class Start:
    """All that a start needs beside the disks. `link` is None for no card on a link, else (own socket, peer's socket),
    relative to the machine's directory."""

    name: str
    directory: Path
    acceleration: str
    memory_mb: int
    ports: dict[str, int]
    link: tuple[str, str] | None
    mac_suffix: int


def disks_in(directory: Path) -> Disks:
    """The disks' places in a directory."""
    root, data, swap, spare = (directory / f"{name}.qcow2" for name in ("root", "data", "swap", "spare"))
    return Disks(root, data, swap, directory / "seed.tar", spare)


def make_overlay(path: Path, backing: Path, backing_format: str = "qcow2", size_mb: int = 0) -> None:
    """A copy-on-write file on top of `backing`, which is never written; as big as that, or as `size_mb` says."""
    size = [f"{size_mb}M"] if size_mb else []
    _image_tool("create", "-q", "-f", "qcow2", "-F", backing_format, "-b", str(backing), str(path), *size)


def make_disk(path: Path, size_mb: int) -> None:
    """An empty disk that takes no space yet."""
    _image_tool("create", "-q", "-f", "qcow2", str(path), f"{size_mb}M")


def _image_tool(*arguments: str) -> None:
    try:
        subprocess.run(
            [program("qemu-img"), *arguments], check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError as error:
        raise RunbookError(
            f"qemu-img {arguments[0]} failed: {error.stderr.decode(errors='replace').strip()}"
        ) from error


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A free loopback port for each name. Another process may take one before qemu does: then qemu does not start."""
    sockets = [socket.socket() for _ in names]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()


def command_line(image: Image, disks: Disks, start: Start) -> list[str]:
    """qemu's command line. The user-mode network is restricted: from the machine no way leads out of it."""
    forwards = "".join(f",hostfwd=tcp:{LOOPBACK}:{start.ports[name]}-:{GUEST_PORTS[name]}" for name in start.ports)
    kernel_arguments = (
        "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off systemd.show_status=false quiet"
        " systemd.mask=serial-getty@ttyS0.service"  # it hangs up whoever writes to the console
        # As libguestfs does: on a busy machine the kernel takes an emulated timer that is late for a broken one.
        " no_timer_check tsc=reliable 8250.nr_uarts=1 cryptomgr.notests"
        # The guest's clock runs on while others have the CPU: do not give up what is only slow.
        " udev.event_timeout=900 systemd.default_timeout_start_sec=600"
    )
    khz = needs.tsc_khz()
    if start.acceleration == "tcg" and khz:
        # An emulated guest counts by our TSC, and measures its rate at boot against a timer. A busy machine delivers
        # that late, and the guest's clock then runs several times too fast.
        kernel_arguments += f" tsc_early_khz={khz}"
    cpu = "host" if start.acceleration == "kvm" else "max,la57=off"  # five-level page tables only cost time here
    accelerator = "kvm" if start.acceleration == "kvm" else "tcg,thread=multi,tb-size=256"
    mac = f"{start.mac_suffix >> 8:02x}:{start.mac_suffix & 255:02x}"
    line = [
        program(QEMU), "-name", f"runbooks-lab-{start.name}", "-nodefaults", "-no-user-config", "-display", "none",
        "-M", "pc", "-accel", accelerator, "-cpu", cpu, "-smp", "2", "-m", str(start.memory_mb),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", kernel_arguments,
        "-pidfile", "qemu.pid", "-qmp", f"unix:{SOCKET},server=on,wait=off", "-serial", "file:console.log",
        "-device", "virtio-rng-pci",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]  # fmt: skip
    for node, path, serial, options in (
        ("root-disk", disks.root, "root", "format=qcow2,discard=unmap"),
        (DATA_DEVICE, disks.data, "data", "format=qcow2,discard=unmap"),
        ("swap-disk", disks.swap, "swap", "format=qcow2,discard=unmap"),
        ("seed-disk", disks.seed, "seed", "format=raw,readonly=on"),
        ("spare-disk", disks.spare, "spare", "format=qcow2,discard=unmap"),
    ):
        line += ["-drive", f"id={node},file={str(path).replace(',', ',,')},if=none,{options}"]
        line += ["-device", f"virtio-blk-pci,drive={node},serial={serial}"]
    line += ["-netdev", f"user,id=operator,restrict=on,ipv6=off{forwards}"]
    line += ["-device", f"virtio-net-pci,netdev=operator,id={OPERATOR_CARD},mac=52:54:00:10:{mac},romfile="]
    if start.link is not None:
        own, peer = start.link
        line += ["-netdev", f"dgram,id=link,local.type=unix,local.path={own},remote.type=unix,remote.path={peer}"]
        line += ["-device", f"virtio-net-pci,netdev=link,id={LINK_CARD},mac=52:54:00:77:{mac},romfile="]
    return line


def spawn(line: list[str], directory: Path) -> subprocess.Popen[bytes]:
    """Start qemu in a session of its own, so that a Ctrl-C meant for us does not hit it; its words go to qemu.log."""
    with (directory / "qemu.log").open("ab") as log:
        return subprocess.Popen(
            ["timeout", "--signal=KILL", str(LIFETIME_SECONDS), *line],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(directory)},
        )
