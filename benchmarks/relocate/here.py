"""A real PostgreSQL on this machine, between two ext4 filesystems on loop devices: without emulation.

Root only. This machine's fstab is not touched: the steps are given another file.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runbooks_lib.procedures.relocate_postgres import fstab
from runbooks_lib.training.lab.load import DATABASE, USER

BIN = Path(os.environ.get("RUNBOOKS_POSTGRES_BIN", "/usr/lib/postgresql/15/bin"))
OWNER = "postgres"
PARTITIONS = ("old", "new", "side")
_FILLER_BYTES = 1000  # of text that does not compress, so that a row takes a little more than a kilobyte

_SCHEMA = f"""create role {USER} login;
create database {DATABASE} owner {USER};
\\connect {DATABASE}
SPACE
set role {USER};
create table acknowledged (client text not null, number bigint not null,
  written_at timestamptz not null default clock_timestamp(), primary key (client, number));
create table filler (id bigint primary key, text text not null);
alter table filler alter column text set storage plain;
"""
TABLESPACE = "fast disk"
_FILL = """insert into filler select n, left(repeat(md5(n::text), :length / 32 + 1), :length)
from generate_series(1, :rows) n; checkpoint;
"""


class Here:
    """A cluster in `old/main`; `new` is the other partition. With `apart`, its WAL and a tablespace with all tables of
    the load lie in `side`, a third one."""

    def __init__(self, root: Path, port: int, data: str) -> None:
        self.root, self.port = root, port
        self.directory = root / "old" / data
        self.started = ["-D", str(self.directory)]  # as pg_ctl is told
        self.address = ("127.0.0.1", port)

    def free(self, name: str) -> Path:
        """A directory that is not there yet, on the partition on which the data does not lie now."""
        side = "old" if self.directory.resolve().is_relative_to(self.root / "new") else "new"
        return self.root / side / name

    def sql(self, text: str, database: str = "postgres") -> str:
        return as_owner(
            "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.root), "-p", str(self.port), "-d", database,
            input=text,
        )  # fmt: skip

    def start(self) -> None:
        as_owner("pg_ctl", *self.started, "-s", "-w", "-l", str(self.root / "log"), "start")

    def stop(self) -> None:
        as_owner("pg_ctl", "-D", self.lies(), "-s", "-w", "-m", "fast", "stop")

    def lies(self) -> str:
        """The data directory, as the server says."""
        return self.sql("show data_directory")

    def configured_in(self, directory: Path, *, debian: bool) -> None:
        """The configuration goes to a directory of its own, and names the data; the server is started anew. `debian`:
        with `-D DATA -c config_file=…`, as that distribution does it; otherwise with `-D CONFIGURATION`."""
        self.stop()
        directory.mkdir()
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(self.directory / name, directory / name)
        with (directory / "postgresql.conf").open("a") as conf:
            conf.write(f"data_directory = '{self.directory}'\n")
            conf.writelines(f"{each}_file = '{directory}/pg_{each}.conf'\n" for each in ("hba", "ident"))
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, OWNER, OWNER)
        self.started = ["-D", str(directory)]
        if debian:
            self.started = ["-D", str(self.directory), "-o", f"-c config_file={directory}/postgresql.conf"]
        self.start()

    def outside(self) -> list[Path]:
        """Where its WAL and its tablespaces lie now, as far as they are outside of the data."""
        links = [self.directory / "pg_wal", *(self.directory / "pg_tblspc").iterdir()]
        return [link.resolve() for link in links if link.is_symlink()]

    def size_bytes(self) -> int:
        return int(self.sql("select sum(pg_database_size(oid)) from pg_database"))


def as_owner(program: str, *words: str, input: str = "") -> str:
    """A program of PostgreSQL, run as the cluster's owner."""
    line = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups", "--", str(BIN / program), *words]
    log = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE  # a server would keep a pipe open
    done = subprocess.run(line, input=input, stdout=log, stderr=log, text=True, cwd="/", check=False)
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr}")
    return (done.stdout or "").strip()


def unmount(place: Path) -> None:
    """Somebody else's look at it (a `df`, a scan of mounts) holds it for a moment: asked for ten seconds."""
    for _ in range(100):
        if not subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode:
            return
        time.sleep(0.1)
    subprocess.run(["umount", str(place)], check=True)


@contextmanager
def here(megabytes: int, *, images: str | None = None, apart: bool = False, data: str = "main") -> Iterator[Here]:
    """A running cluster with about so much data in it, in `old`/data. `images`: where the file systems are kept."""
    root = Path(tempfile.mkdtemp(prefix="relocate-", dir="/tmp"))
    root.chmod(0o755)
    cluster = Here(root, _free_port(), data)
    kept, loops = root, list[str]()
    (root / "fstab").write_text("# none\n")
    usual, fstab.FSTAB = fstab.FSTAB, str(root / "fstab")
    try:
        kept = Path(tempfile.mkdtemp(prefix="relocate-", dir=images))
        for name in PARTITIONS if apart else PARTITIONS[:2]:
            loops.append(_filesystem(kept / f"{name}.img", root / name, 3 * megabytes + 2500))
        shutil.chown(root, OWNER, OWNER)
        places = [cluster.directory] + [root / "side/wal/main", root / "side/a tablespace"] * apart
        for place in places:
            place.mkdir(parents=True)
            shutil.chown(place, OWNER, OWNER)
        wal = ["--waldir", str(places[1])] if apart else []
        as_owner("initdb", "-D", str(cluster.directory), "-U", OWNER, "-A", "trust", "--data-checksums", "-N", *wal)
        with (cluster.directory / "postgresql.conf").open("a") as conf:
            conf.write(f"port = {cluster.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{root}'\n")
            conf.write("max_wal_size = 1GB\nshared_buffers = 256MB\narchive_mode = on\narchive_command = '/bin/true'\n")
        cluster.start()
        space = f"create tablespace \"{TABLESPACE}\" owner {USER} location '{places[-1]}';\n"
        space += f'set default_tablespace = "{TABLESPACE}";'
        cluster.sql(_SCHEMA.replace("SPACE", space if apart else ""))
        rows = max(1, megabytes * 1024 * 1024 // (_FILLER_BYTES + 60))
        cluster.sql(f"\\set rows {rows}\n\\set length {_FILLER_BYTES}\n{_FILL}", DATABASE)
        yield cluster
    finally:
        fstab.FSTAB = usual
        _end(root)
        for loop in loops:
            subprocess.run(["losetup", "--detach", loop], check=False)
        shutil.rmtree(kept, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _filesystem(image: Path, mountpoint: Path, megabytes: int) -> str:
    """A new one, mounted; the loop device, which stays when the mount goes, as a disk does."""
    with image.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    attach = ["losetup", "--find", "--show", str(image)]
    loop = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["mount", loop, str(mountpoint)], check=True)
    return loop


def _end(root: Path) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = (process / "cwd").readlink().is_relative_to(root)
        except OSError:
            continue
        if inside:
            os.kill(int(process.name), signal.SIGKILL)
    places = [*(root / "old").glob("*"), *(root / name for name in PARTITIONS)]  # a bind mount comes first
    for place in places:
        if os.path.ismount(place):
            with suppress(subprocess.CalledProcessError):
                unmount(place)
    shutil.rmtree(root, ignore_errors=True)
