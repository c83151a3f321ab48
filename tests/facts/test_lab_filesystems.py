"""Real file systems on loop devices: xfs, btrfs, a full ext4, bind mounts, awkward names, a read-only flip; LVM."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runbooks_lib.facts import collect
from runbooks_lib.facts.fact import Fact, State
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.hosts.host import Host

pytestmark = pytest.mark.lab
NewHost = Callable[..., Host]
HOSTILE = (
    "import ctypes; ctypes.CDLL(None).prctl(15, b'a\\\\b\\n@@end\\n', 0, 0, 0)\nprint(1, flush=True)\nwhile True: pass"
)
PACKAGES = {
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "busybox": "busybox-static",
    "pvcreate": "lvm2",
}


def run(*command: str | Path) -> str:
    name = Path(command[0]).name
    assert shutil.which(command[0]), f"this test needs the Debian package {PACKAGES.get(name, name)}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


class Lab:
    """Loop devices and mounts, all undone at the end."""

    def __init__(self, root: Path) -> None:
        self.root, self.points, self.loops = root, [], []

    def loop(self, name: str, mebibytes: int) -> str:
        image = self.root / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(mebibytes * 2**20)
        device = run("losetup", "-f", "--show", image)
        self.loops.append(device)
        return device

    def mount(self, source: str | Path, name: str, *options: str) -> Path:
        point = self.root / name
        point.mkdir(parents=True, exist_ok=True)
        run("mount", *options, source, point)
        self.points.append(point)
        return point

    def close(self) -> None:
        for point in reversed(self.points):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
        for device in self.loops:
            subprocess.run(["losetup", "-d", device], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def applets(tmp_path: Path) -> Path:
    """A directory with nothing but busybox's applets: what a host of Alpine or a router has."""
    place = tmp_path / "applets"
    place.mkdir()
    run("busybox", "--install", "-s", place)
    return place


def rows(host: Host, lab: Lab) -> dict[str, Filesystem]:
    found = collect.read_snapshot(host, sample_seconds=0).filesystems.require()
    return {row.mountpoint: row for row in found.rows if row.mountpoint.startswith(str(lab.root))}


def test_every_shell_sees_the_same_filesystems_whatever_their_names(
    lab: Lab, shell_host: NewHost, applets: Path
) -> None:
    xfs, btrfs, full = lab.loop("x", 320), lab.loop("b", 128), lab.loop("e", 16)
    run("mkfs.xfs", "-q", xfs)
    run("mkfs.btrfs", "-q", btrfs)
    run("mkfs.ext4", "-q", "-N", "512", full)
    x = lab.mount(xfs, "my 2nd\r\v\f\u00a0disk", "-t", "xfs")
    b = lab.mount(btrfs, "tab\tnew\nline", "-t", "btrfs")
    run("btrfs", "subvolume", "create", b / "sub")
    sub = lab.mount(btrfs, "#sub\\040", "-t", "btrfs", "-o", "subvol=sub")
    e = lab.mount(full, "full\n4096 1 1 1 1 1 ", "-t", "ext4")
    bound = lab.mount(x, "bound", "--bind")
    with pytest.raises(OSError, match="No space left"):
        (e / "fill").write_bytes(b"x" * 20 * 2**20)
    expected = {str(x), str(b), str(e)}
    seen = []
    shells = [("dash",), ("bash",), ("mksh",), (str(applets / "sh"),)]
    for shell in shells:
        assert shutil.which(shell[0]), f"this test needs the Debian package {PACKAGES.get(shell[0], shell[0])}"
        host = shell_host(shell, {"PATH": str(applets)} if "applets" in shell[0] else None)
        found = rows(host, lab)
        assert set(found) == expected, shell
        assert found[str(x)].also_at == (str(bound),)
        assert found[str(b)].also_at == (str(sub),)
        seen.append({point: row.usage for point, row in found.items()})
    assert all(other == seen[0] for other in seen)
    for point in (x, b, e):
        usage, real = seen[0][str(point)], os.statvfs(point)
        assert usage is not None
        assert usage.size_bytes == real.f_blocks * real.f_frsize
        assert usage.avail_bytes == real.f_bavail * real.f_frsize
        assert usage.files == (real.f_files or None)
    last = seen[0][str(e)]
    assert last is not None
    assert last.used_ratio is not None
    assert last.used_ratio > 0.99


@pytest.mark.parametrize("awk", ["mawk", "gawk", "original-awk"])
def test_every_awk_reads_the_same(awk: str, shell_host: NewHost, tmp_path: Path) -> None:
    program = shutil.which(awk)
    assert program, f"this test needs the Debian package {awk}"
    (tmp_path / "awk").symlink_to(program)
    host = shell_host(("sh",), {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    with subprocess.Popen([shutil.which("python3") or "python3", "-c", HOSTILE], stdout=subprocess.PIPE) as evil:
        try:
            assert evil.stdout is not None
            evil.stdout.readline()
            found = collect.read_snapshot(host, sample_seconds=0.4)
            slow = collect.read_slow(
                host, ("deleted-files", "process-io", "kernel-log", "directories"), mountpoint="/boot", root=False
            )
        finally:
            evil.kill()
    states = {name: fact.state for name, fact in found.facts().items()}
    states |= {f"slow {name}": fact.state for name, fact in vars(slow).items() if isinstance(fact, Fact)}
    assert set(states.values()) <= {State.AVAILABLE, State.ABSENT}, states
    assert "a\\b\n@@end\n" in {process.name for process in found.processes.require().by_cpu}
    assert found.rates.require().cpu is not None


def test_ext4_that_the_kernel_made_read_only_is_a_flip_and_its_message_is_found(lab: Lab, host: Host) -> None:
    device = lab.loop("flip", 16)
    run("mkfs.ext4", "-q", device)
    point = lab.mount(device, "flip", "-o", "errors=remount-ro")
    row = rows(host, lab)[str(point)]
    assert not row.read_only
    assert row.read_only_flip == ""
    Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")
    with pytest.raises(OSError, match="Read-only"):
        (point / "x").write_text("x")
    snapshot = collect.read_snapshot(host, sample_seconds=0)
    row = rows(host, lab)[str(point)]
    assert row.read_only
    assert "the kernel made it read-only" in row.read_only_flip
    assert "1 ext4 errors recorded" in row.detail
    assert snapshot.error_counts.require().ext4[Path(device).name] == 1
    messages = snapshot.kernel_log.require().messages
    assert any(Path(device).name in message.text and message.subject == "disk" for message in messages)
    mine = [
        s for s in snapshot.samples() if s.name == "node_filesystem_readonly" and s.labels["mountpoint"] == str(point)
    ]
    assert [sample.value for sample in mine] == [1.0]


def test_an_xfs_that_has_shut_down_says_so_without_the_kernels_log_in_every_shell(
    lab: Lab, shell_host: NewHost, applets: Path
) -> None:
    device, sound = lab.loop("shut", 320), lab.loop("sound", 16)
    run("mkfs.xfs", "-q", device)
    run("mkfs.ext4", "-q", sound)
    point = lab.mount(device, "shut\n42 x: down", "-t", "xfs")
    (point / "inner").mkdir()
    inner = lab.mount(sound, f"{point.name}/inner")
    bound = lab.mount(point, "bound", "--bind")
    run("xfs_io", "-x", "-c", "shutdown -f", point)
    with pytest.raises(OSError, match="Input/output error"):
        point.stat()
    for shell in (("dash",), ("bash",), ("mksh",), (str(applets / "sh"),)):
        host = shell_host(shell, {"PATH": str(applets)} if "applets" in shell[0] else None)
        found = rows(host, lab)
        assert found[str(point)].also_at == (str(bound),)
        assert found[str(point)].usage is not None
        assert found[str(point)].read_error in ("Input/output error", "I/O error")
        assert found[str(inner)].read_error == ""


def test_a_read_only_mount_on_purpose_is_no_flip(lab: Lab, host: Host) -> None:
    device = lab.loop("ro", 16)
    run("mkfs.ext4", "-q", device)
    point = lab.mount(device, "ro", "-o", "ro")
    row = rows(host, lab)[str(point)]
    assert row.read_only
    assert row.read_only_flip == ""


def test_a_mount_covered_by_another_is_not_shown_with_its_figures(lab: Lab, host: Host) -> None:
    first, second = lab.loop("first", 16), lab.loop("second", 24)
    run("mkfs.ext4", "-q", first)
    run("mkfs.ext4", "-q", second)
    lab.mount(first, "place")
    point = lab.mount(second, "place")
    found = rows(host, lab)
    assert {row.device for row in found.values()} == {second}
    assert found[str(point)].usage is not None


def test_lvm_groups_and_their_free_extents_are_read_as_root(
    lab: Lab, host: Host, applets: Path, shell_host: NewHost
) -> None:
    disks = [lab.loop(f"pv{i}", 64) for i in (1, 2)]
    name = f"runbook{os.getpid()}"
    run("pvcreate", "-q", "--driverloaded", "n", *disks)
    try:
        run("vgcreate", "-q", "--driverloaded", "n", name, *disks)
        run("lvcreate", "-q", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-L", "20M", "-n", "data", name)
        fact = collect.read_slow(host, ("lvm",), root=False).lvm
        assert fact is not None
        found = fact.require()
        group = next(group for group in found.volume_groups if group.name == name)
        assert (group.extent_bytes, group.extents, group.free_extents) == (4 * 2**20, 30, 25)
        assert {pv.device for pv in found.physical_volumes if pv.group == name} == set(disks)
        volume = next(volume for volume in found.logical_volumes if volume.group == name)
        assert (volume.name, volume.size_bytes, volume.kind) == ("data", 20 * 2**20, "linear")
    finally:
        for command in (["vgremove", "-ff", "-y", name], ["pvremove", "-ff", "-y", *disks]):
            subprocess.run([*command, "--driverloaded", "n"], check=False, capture_output=True)
    without_lvm = collect.read_slow(shell_host((str(applets / "sh"),), {"PATH": str(applets)}), ("lvm",), root=False)
    assert without_lvm.lvm is not None


def test_an_ordinary_user_is_told_what_needs_root(shell_host: NewHost) -> None:
    user = shell_host(("sh",), {"PATH": "/usr/bin:/bin"}, user=65534)
    quick = collect.read_snapshot(user, sample_seconds=0)
    assert quick.memory.known
    assert quick.filesystems.known
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "1":
        assert quick.kernel_log.state is State.NOT_ALLOWED
    slow = collect.read_slow(user, ("lvm", "deleted-files", "process-io"), root=False)
    assert slow.lvm is not None
    assert slow.lvm.state is State.NOT_ALLOWED
    assert slow.deleted_files is not None
    assert not slow.deleted_files.require().complete
    assert "only the user's own" in slow.deleted_files.detail


@pytest.mark.parametrize("name", collect.SCRIPTS)
def test_the_scripts_are_clean_for_shellcheck(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.sh"
    path.write_text(collect.script_text(name))
    assert run("shellcheck", "-s", "sh", path) == ""


@pytest.mark.parametrize("name", collect.SCRIPTS)
def test_the_scripts_write_remove_and_rename_nothing(name: str, shell_host: NewHost, tmp_path: Path) -> None:
    assert shutil.which("strace"), "this test needs the Debian package strace"
    trace = tmp_path / "trace"
    calls = "openat open creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat symlink chmod"
    calls = "trace=" + ",".join(calls.split())
    host = shell_host(("strace", "-f", "-q", "-e", calls, "-o", str(trace), "sh"))
    if name == "quick":
        collect.read_snapshot(host, sample_seconds=0.1)
    else:
        collect.read_slow(
            host, ("deleted-files", "process-io", "kernel-log", "directories"), mountpoint=str(tmp_path), root=False
        )
    lines = trace.read_text().splitlines()
    assert len(lines) > 50
    writing = [
        line
        for line in lines
        if "+++" not in line
        and "---" not in line
        and "resumed" not in line
        and ("open" not in line or "O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line)
    ]
    assert [line for line in writing if '"/dev/null"' not in line] == []
