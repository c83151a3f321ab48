"""A real PostgreSQL on a filesystem of its own, natively: quick where a practice machine would take minutes."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.procedures.storage.disks import loop_disk, mounted, run

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
PORT = "54391"
_CONF = """listen_addresses = ''
port = {port}
unix_socket_directories = '{sockets}'
min_wal_size = 32MB
max_wal_size = 48MB
wal_level = logical
archive_mode = on
archive_command = 'test %p'
fsync = off
"""


@dataclass(frozen=True)
class Cluster:
    """Its mount point and data directory."""

    mountpoint: Path
    data: Path
    sockets: Path

    def sql(self, *statements: str) -> str:
        command = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-h", str(self.sockets), "-p", PORT]
        command += ["-v", "ON_ERROR_STOP=1", "postgres"]
        return run(*command, *(word for statement in statements for word in ("-c", statement))).strip()

    def wal_bytes(self) -> int:
        return int(self.sql("select sum(size) from pg_ls_waldir()"))

    def write_wal(self, segments: int) -> None:
        """So many segments more, as a busy day writes them."""
        for _ in range(segments):
            self.sql("select pg_switch_wal(), pg_logical_emit_message(false, 'test', 'x')")
        self.sql("checkpoint")


@contextlib.contextmanager
def cluster(mib: int = 1000) -> Iterator[Cluster]:
    """A running server; its name has a blank and a quote in it, as hosts of others do."""
    with tempfile.TemporaryDirectory(prefix="runbooks-pg-") as made:
        base = Path(made)
        base.chmod(0o755)
        with loop_disk(base, "pg", mib) as disk, mounted(disk.device, "ext4", base / "it's db") as at:
            data, sockets = at / "15 main", base / "sockets"
            for directory in (data, sockets):
                directory.mkdir(mode=0o700)
                run("chown", "postgres", str(directory))
            as_postgres = ["runuser", "-u", "postgres", "--"]
            run(*as_postgres, str(PROGRAMS / "initdb"), "-D", str(data), "-N", "-A", "peer")
            (data / "postgresql.auto.conf").write_text("")
            with (data / "postgresql.conf").open("a") as conf:
                conf.write(_CONF.format(port=PORT, sockets=sockets))
            control = [*as_postgres, str(PROGRAMS / "pg_ctl"), "-D", str(data)]
            log = base / "sockets/log"
            subprocess.run([*control, "-w", "-l", str(log), "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
            try:
                yield Cluster(at, data, sockets)
            finally:
                run(*control, "-w", "-m", "fast", "stop")
