"""The image that every practice machine starts from: Debian from this machine's own package sources, built once.

mmdebstrap makes an archive (in a user namespace when not root), mke2fs makes an ext4 file of it without mounting
anything, and the kernel and its initrd lie beside it, for qemu starts them directly. The directory's name is a hash of
everything that goes in, so that a change in the guest's files makes a new image and an old one is never taken for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab.needs import (
    BUILD_PROGRAMS,
    BUILD_SPACE_BYTES,
    USER_BUILD_PROGRAMS,
    LabUnavailable,
    program,
    require_programs,
    require_space,
)
from runbooks_lib.training.lab.places import Places

FORMAT = "1"  # part of the hash: raise it when the way of building changes
ROOT_SIZE = "3G"  # of the sparse file
BUILD_DEADLINE_SECONDS = 1800
_UNITS = ("lab-seed.service", "lab-prepare.service")
_PROGRAMS = ("seed.sh", "prepare.sh", "finish.sh")
_VARIANT = "minbase"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """An image on disk. `seconds` is how long it took to build, 0 when that is not known."""

    directory: Path
    key: str
    seconds: float

    @property
    def root(self) -> Path:
        return self.directory / "root.img"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"


def guest_text(name: str) -> str:
    """The text of a file that goes into the machine."""
    return (files("runbooks_lib.training.lab") / "guest" / name).read_text(encoding="utf-8")


def image_key(sources: str, codename: str) -> str:
    """The hash that names an image: package list, guest files, release, package sources, way of building."""
    digest = hashlib.sha256()
    parts = [FORMAT, ROOT_SIZE, _VARIANT, codename, sources, guest_text("packages.txt")]
    parts += [guest_text(name) for name in (*_UNITS, *_PROGRAMS)]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part.encode())
    return digest.hexdigest()[:16]


def ensure_image(where: Places, say: Say) -> Image:
    """The image, built now if it is not there. Two operators who want it at once get one building.

    Raises LabUnavailable when something is missing here, RunbookError when building fails (then nothing is left of it).
    """
    codename = debian_codename()
    sources = package_sources(codename)
    key = image_key(sources, codename)
    directory = where.images / f"base-{key}"
    image = _read(directory, key)
    if image is not None:
        return image
    require_programs(BUILD_PROGRAMS if os.geteuid() == 0 else (*BUILD_PROGRAMS, *USER_BUILD_PROGRAMS))
    require_space(where.images, BUILD_SPACE_BYTES, "building the image")
    with making(directory, say) as fresh:
        if fresh is not None:
            say(f"building the image from this machine's Debian sources ({codename}); this happens once")
            begin = time.monotonic()
            _build(fresh, codename, sources)
            (fresh / "seconds").write_text(f"{time.monotonic() - begin:.1f}\n", encoding="ascii")
    image = _read(directory, key)
    if image is None:
        raise RunbookError("the image was built and is not whole", where=str(directory), next="remove it and try again")
    return image


@contextlib.contextmanager
def making(directory: Path, say: Say) -> Iterator[Path | None]:
    """Give an empty directory to fill, and let it take its name at the end; None when it is there already.

    A killed maker leaves a directory that the next one removes: the lock tells that nobody is at it.
    """
    lock_path = directory.with_name(f".{directory.name}.lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that is making {directory.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "seconds").exists():
            yield None
            return
        fresh = directory.with_name(f".{directory.name}.being-made")
        for old in (fresh, directory):
            shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        try:
            yield fresh
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.rename(directory)


def nobody_makes(fresh: Path) -> bool:
    """True when no process holds the lock of a directory that is being made: its maker was killed."""
    name = fresh.name.removeprefix(".").removesuffix(".being-made")
    with fresh.with_name(f".{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def debian_codename() -> str:
    """The release of this machine, as its packages come from. Raises LabUnavailable when it is no Debian."""
    release: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            release[name] = value.strip().strip('"')
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not re.fullmatch(r"[a-z]+", codename):
        raise LabUnavailable(
            f"the image is built from the package sources of a Debian; here is {release.get('PRETTY_NAME', 'none')}",
            true_now="nothing was built",
            next="copy an images directory from a Debian machine into the lab's directory, or run the lab there",
        )
    return codename


@cache
def package_sources(codename: str) -> str:
    """The lines of sources.list with which this machine itself gets Debian's packages; they stay on this machine.

    Raises LabUnavailable when apt knows none for this release.
    """
    require_programs(("mmdebstrap",))
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE)|$(COMPONENT)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
         "Created-By: Packages"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = set()
    for line in said.stdout.splitlines():
        release, component, source = line.split("|", 2)
        if component == "main" and re.fullmatch(rf"{codename}(-updates|-security)?", release):
            lines.add(source)
    if not lines:
        raise LabUnavailable(
            f"apt has no source of {codename}'s packages here",
            true_now="nothing was built",
            next="look at `apt-get indextargets`, and run `apt-get update` as root",
        )
    return "".join(f"{line}\n" for line in sorted(lines))


def _read(directory: Path, key: str) -> Image | None:
    image = Image(directory, key, 0.0)
    if not all(path.exists() for path in (directory / "seconds", image.root, image.kernel, image.initrd)):
        return None
    with contextlib.suppress(ValueError):
        return Image(directory, key, float((directory / "seconds").read_text(encoding="ascii")))
    return image


def _build(directory: Path, codename: str, sources: str) -> None:
    archive = directory / "root.tar"
    packages = ",".join(guest_text("packages.txt").split())
    with as_file(files("runbooks_lib.training.lab") / "guest") as guest, tempfile.TemporaryDirectory() as staging:
        # A copy that others may read: in a user namespace mmdebstrap's hooks are not the owner of our files.
        staged = Path(staging)
        staged.chmod(0o755)
        for name in (*_PROGRAMS, *_UNITS):
            shutil.copy(guest / name, staged / name)
            (staged / name).chmod(0o644)
        copies = [f"--customize-hook=copy-in {staged}/{name} /usr/local/lib/lab" for name in _PROGRAMS]
        copies += [f"--customize-hook=copy-in {staged}/{name} /etc/systemd/system" for name in _UNITS]
        command = [
            program("mmdebstrap"), "--quiet", "--mode=auto", f"--variant={_VARIANT}", f"--include={packages}",
            '--aptopt=Acquire::Languages "none"', "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
            # Roles make their clusters themselves: Debian's own one would have no checksums and lie on the root disk.
            '--essential-hook=mkdir -p "$1/etc/postgresql-common"',
            "--essential-hook=echo 'create_main_cluster = false' > \"$1/etc/postgresql-common/createcluster.conf\"",
            '--customize-hook=mkdir -p "$1/usr/local/lib/lab" "$1/etc/lab"', *copies,
            '--customize-hook=chroot "$1" sh /usr/local/lib/lab/finish.sh', codename, "-", "-",
        ]  # fmt: skip
        with archive.open("wb") as output:
            _run(command, "building the Debian tree", input_text=sources, output=output)
    _take_boot_files(archive, directory)
    with tempfile.TemporaryDirectory(dir=directory) as tree:
        # mke2fs reads owners from the tree: who is not root makes both see the archive's owners through fakeroot.
        fake = [] if os.geteuid() == 0 else [program("fakeroot"), "--"]
        steps = 'tar --extract --file "$1" --directory "$2" --exclude="./dev/*" && "$3" -q -t ext4 -d "$2" "$4" "$5"'
        root = directory / "root.img"
        _run(
            [*fake, "sh", "-ec", steps, "sh", str(archive), tree, program("mke2fs"), str(root), ROOT_SIZE],
            "making the ext4 image",
        )
        root.chmod(0o400)
        if fake:  # directories that only their owner may enter belong to us here, and rmtree must get in
            subprocess.run(["chmod", "-R", "u+rwX", tree], capture_output=True, timeout=120, check=False)
    archive.unlink()


def _take_boot_files(archive: Path, directory: Path) -> None:
    wanted = {"vmlinuz": directory / "vmlinuz", "initrd.img": directory / "initrd.img"}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            for stem, target in wanted.items():
                if member.isfile() and name.startswith(f"boot/{stem}-"):
                    source = tar.extractfile(member)
                    if source is not None:
                        with source, target.open("wb") as output:
                            shutil.copyfileobj(source, output)
    missing = [stem for stem, target in wanted.items() if not target.exists()]
    if missing:
        raise RunbookError(f"the Debian tree has no {' and no '.join(missing)} in /boot", true_now="nothing was kept")


def _run(command: list[str], what: str, *, input_text: str = "", output: object = subprocess.DEVNULL) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command,
            input=input_text.encode(),
            stdout=output,  # type: ignore[call-overload]
            stderr=subprocess.PIPE,
            timeout=BUILD_DEADLINE_SECONDS,
            check=True,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise RunbookError(
            f"{what} did not end within {BUILD_DEADLINE_SECONDS // 60} minutes", true_now="nothing was kept"
        ) from None
    except subprocess.CalledProcessError as error:
        tail = "\n        ".join(error.stderr.decode(errors="replace").strip().splitlines()[-6:])
        raise RunbookError(
            f"{what} failed: {tail}",
            true_now="nothing of it was kept",
            next="if packages could not be fetched: run `apt-get update` as root, then try again",
        ) from error
