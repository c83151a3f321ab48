"""The machines of a lab: start one, find them, end what a crashed operator left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.training.lab import database
from runbooks_lib.training.lab.image import Image, Say, ensure_image, nobody_makes
from runbooks_lib.training.lab.machine import Machine, write_ssh_files
from runbooks_lib.training.lab.needs import (
    RUN_PROGRAMS,
    RUN_SPACE_BYTES,
    acceleration,
    require_memory,
    require_programs,
    require_space,
)
from runbooks_lib.training.lab.places import Places, places
from runbooks_lib.training.lab.processes import ProcessId, process_id, this_process
from runbooks_lib.training.lab.qemu import (
    DATA_DISK_MB,
    SPARE_DISK_MB,
    Start,
    command_line,
    disks_in,
    free_ports,
    make_overlay,
    spawn,
)
from runbooks_lib.training.lab.qmp import Qmp, QmpError
from runbooks_lib.training.lab.records import Record, change_record, read_record, write_record
from runbooks_lib.training.lab.roles import BUILD_SERVER, DATABASE, Prepared, ensure_prepared, role
from runbooks_lib.training.lab.seed import USER, identity_files, make_key, write_seed

MEMORY_MB = 1024
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Ended:
    """A left-over machine that was ended, or could not be."""

    name: str
    why: str
    gone: bool


def silent(_: str) -> None:
    """Say nothing."""


def up(
    name: str,
    *,
    role_name: str = BUILD_SERVER.name,
    filesystem: str = "ext4",
    link: str | None = None,
    memory_mb: int = MEMORY_MB,
    database_mb: int = 0,
    held: bool = False,
    save: bool = True,
    where: Places | None = None,
    say: Say = silent,
) -> Machine:
    """Start a machine and wait until its services answer.

    `held`: it is to live no longer than this process (the next `list` ends it). `link` joins it with the other machine
    that names the same link. `database_mb` of rows are put into the database, whose volume and whose disks are made
    bigger for it. `save` keeps its state for `reset`. Raises UsageError when the name is taken or the link
    has two ends already, LabUnavailable when something is missing here, RunbookError when it does not come up (then it
    is ended again).
    """
    where = where or places()
    machine = Machine(where.machine(name))
    wanted = role(role_name)
    require_programs(RUN_PROGRAMS)
    if database_mb and not wanted.logins:
        raise UsageError(f"a machine of the role {wanted.name} has no database to fill", where=name)
    require_space(where.machines, RUN_SPACE_BYTES + 3 * database_mb * 1024**2, "a practice machine")
    with _images_in_use(where):  # until the record says so
        image = ensure_image(where, say)
        prepared = ensure_prepared(where, image, wanted, filesystem, say)
        require_memory(memory_mb)
        with _all_machines(where):
            _refuse_taken(machine)
            record = Record(
                name=name,
                role=wanted.name,
                filesystem=filesystem,
                image_key=image.key,
                role_key=prepared.key,
                acceleration=acceleration(),
                memory_mb=memory_mb,
                ports={},
                link=_link_end(where, link),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                owner=this_process(),
                passwords={login: secrets.token_urlsafe(18) for login in wanted.logins},
                database_mb=database_mb,
            )
            machine.directory.mkdir(mode=0o700)
            write_record(machine.directory, record)
            (where.root / "ssh_config").write_text(f'Include "{where.machines}/*/ssh_config"\n', encoding="utf-8")
    try:
        say(f"starting {name} ({wanted.name}, {filesystem}, {record.acceleration})")
        begin = time.monotonic()
        _start(where, machine, record, image, prepared, wanted.ports)
        machine.wait_ready()
        change_record(machine.directory, boot_seconds=round(time.monotonic() - begin, 2))
        if wanted.logins:
            database.set_passwords(machine)
        if database_mb:
            say(f"putting {database_mb} MB into its database")
            database.enlarge(machine, database_mb)
        if save:
            machine.save()
        change_record(machine.directory, ready=True, owner=record.owner if held else None)
    except BaseException:
        machine.end()
        raise
    return machine


def prepare(where: Places | None = None, say: Say = silent) -> None:
    """Build the image and the disks of every role ahead, so that `up` need not. Raises as `up` does."""
    where = where or places()
    require_programs(RUN_PROGRAMS)
    wanted = ((BUILD_SERVER, "ext4"), (BUILD_SERVER, "xfs"), (DATABASE, "ext4"))
    with _images_in_use(where), ThreadPoolExecutor(max_workers=2) as pool:  # each role is one CPU's work
        image = ensure_image(where, say)
        for made in [pool.submit(ensure_prepared, where, image, *one, say) for one in wanted]:
            made.result()


@contextlib.contextmanager
def held_machine(name: str, **options: object) -> Iterator[Machine]:
    """A machine for the length of a `with` block. Options as for `up`."""
    machine = up(name, held=True, **options)  # type: ignore[arg-type]
    try:
        yield machine
    finally:
        machine.end()


def find(name: str, where: Places | None = None) -> Machine:
    """The machine of that name. Raises UsageError when there is none."""
    machine = Machine((where or places()).machine(name))
    if read_record(machine.directory) is None:
        raise UsageError("there is no such practice machine", where=name, next=f"runbook lab-host up {name}")
    return machine


def password(login: str, address: tuple[str, int], where: Places | None = None) -> str:
    """The password of a database role at an address of one of the machines here. Raises UsageError for another one."""
    for machine in machines(where):
        record = machine.record
        if address[1] in record.ports.values() and login in record.passwords:
            return record.passwords[login]
    raise UsageError(f"no practice machine answers at port {address[1]} with a role {login}", next="give the password")


def machines(where: Places | None = None) -> list[Machine]:
    """All machines that have a record, by name."""
    where = where or places()
    found = [Machine(path) for path in sorted(where.machines.iterdir()) if path.is_dir()]
    return [machine for machine in found if read_record(machine.directory) is not None]


def end_left_overs(where: Places | None = None) -> list[Ended]:
    """End the machines that nobody holds any more: their operator is gone, their qemu is gone, or their record is."""
    where = where or places()
    ended = []
    with _all_machines(where):
        for path in sorted(where.machines.iterdir()):
            if not path.is_dir():
                continue
            record = read_record(path)
            why = ""
            if record is None:
                why = "it had no readable record"
            elif record.left_over:
                why = "the process that held it is gone"
            elif record.ready and not record.running:
                why = "its qemu had ended"
            if why:
                ended.append(Ended(path.name, why, Machine(path).end()))
        for directory, processes in _our_qemus(where).items():
            if directory.parent == where.machines and not directory.exists():
                why = "its files were gone"
            elif directory.parent == where.images and nobody_makes(directory):
                why = "who was preparing a role is gone"
            else:
                continue
            gone = [process.kill() for process in processes]
            shutil.rmtree(directory, ignore_errors=True)
            ended.append(Ended(directory.name, why, all(gone)))
    return ended


def clean(where: Places | None = None) -> int:
    """Remove every image that no machine uses; returns the bytes that came free. Raises RunbookError while somebody
    prepares one or starts a machine from one."""
    where = where or places()
    with _images_in_use(where, alone=True), _all_machines(where):
        records = [machine.record for machine in machines(where)]
        used = {record.image_key for record in records} | {record.role_key for record in records}
        freed = 0
        for path in where.images.iterdir():
            if path.is_dir() and path.name.rsplit("-", 1)[-1] not in used and not path.name.endswith(".being-made"):
                freed += sum(file.lstat().st_blocks * 512 for file in path.iterdir())
                shutil.rmtree(path, ignore_errors=True)
    return freed


def _start(
    where: Places, machine: Machine, record: Record, image: Image, prepared: Prepared, ports: tuple[str, ...]
) -> None:
    directory = machine.directory
    user_public = make_key(directory / "id_ed25519", f"{USER}@lab")
    host_key = directory / "host_ed25519"
    host_public = make_key(host_key, record.name)
    address = record.link_address or "10.77.0.1"
    disks = disks_in(directory)
    write_seed(disks.seed, identity_files(record.name, host_key, user_public, address))
    more = 3 * record.database_mb  # the rows, their WAL, and room to move them within the volume group
    for name, size_mb in (("root", 0), ("data", DATA_DISK_MB + more), ("swap", 0), ("spare", SPARE_DISK_MB + more)):
        make_overlay(getattr(disks, name), getattr(prepared.disks, name), size_mb=size_mb)
    link = None
    if record.link:
        link_name, end = record.link
        (where.links / link_name).mkdir(exist_ok=True, mode=0o700)
        link = (f"../../links/{link_name}/{end}.sock", f"../../links/{link_name}/{1 - end}.sock")
    for attempt in (1, 2, 3):
        chosen = free_ports(ports)
        record = change_record(directory, ports=chosen)
        start = Start(
            record.name, directory, record.acceleration, record.memory_mb, chosen, link,
            record.link[1] + 1 if record.link else 1,
        )  # fmt: skip
        if _spawned(machine, command_line(image, disks, start)):
            break
        log = (directory / "qemu.log").read_text(errors="replace").strip()
        if attempt == 3 or not ("hostfwd" in log or "forwarding" in log):
            raise RunbookError(f"qemu did not start: {log[-500:]}", where=record.name, true_now="nothing is running")
    write_ssh_files(machine, record, directory / "id_ed25519", host_public)


def _spawned(machine: Machine, line: list[str]) -> bool:
    """Start qemu and write down which process it is; False when it ended at once."""
    child = spawn(line, machine.directory)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(OSError, ValueError, QmpError):
            pid = int((machine.directory / "qemu.pid").read_text(encoding="ascii"))
            with Qmp(machine.directory, deadline_seconds=2):
                change_record(machine.directory, process=process_id(pid))
            return True
        time.sleep(0.05)
    child.terminate()
    child.wait(timeout=10)
    return False


def _refuse_taken(machine: Machine) -> None:
    record = read_record(machine.directory)
    if record is not None and (record.running or (record.owner is not None and record.owner.alive)):
        raise UsageError(
            "a practice machine of that name is up", where=machine.name,
            next=f"use it (`runbook lab-host ssh {machine.name}`), or end it (`runbook lab-host down {machine.name}`)",
        )  # fmt: skip
    if machine.directory.exists() and not machine.end():
        raise RunbookError("an old machine of that name could not be ended", where=machine.name)


def _link_end(where: Places, link: str | None) -> tuple[str, int] | None:
    if link is None:
        return None
    where.machine(link)  # a link is named as a machine is
    taken = {r.link[1] for r in (m.record for m in machines(where)) if r.link and r.link[0] == link}
    free = [end for end in (0, 1) if end not in taken]
    if not free:
        raise UsageError(f"the link {link!r} already joins two machines", next="name another link, or end one of them")
    return link, free[0]


def _our_qemus(where: Places) -> dict[Path, list[ProcessId]]:
    """Our processes that are qemu for this lab, by the directory that they run in, which may be gone."""
    found: dict[Path, list[ProcessId]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if path.stat().st_uid != os.geteuid():
                continue
            directory = Path(str((path / "cwd").readlink()).removesuffix(" (deleted)"))
            if directory.parent not in (where.machines, where.images):
                continue
            words = (path / "cmdline").read_bytes().split(b"\0")
            process = process_id(int(path.name))
            if process is not None and any(word.startswith(b"runbooks-lab-") for word in words):
                found.setdefault(directory, []).append(process)
    return found


@contextlib.contextmanager
def _images_in_use(where: Places, *, alone: bool = False) -> Iterator[None]:
    """Nobody removes images meanwhile; with `alone` nobody uses them."""
    with (where.images / ".in-use.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            raise RunbookError(
                "images are in use: somebody prepares one, or starts a machine from one",
                where=str(where.images),
                true_now="nothing was removed",
                next="call it again when that is done; `runbook lab-host list` shows the machines",
            ) from None
        yield


@contextlib.contextmanager
def _all_machines(where: Places) -> Iterator[None]:
    """Nobody else starts or ends machines meanwhile."""
    with (where.machines / ".lock").open("w") as lock:  # `machines` makes the directory
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
