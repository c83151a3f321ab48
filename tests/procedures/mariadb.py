"""A real MariaDB on this machine, as a service of a stand-in for systemd, with writers that remember each acknowledged
commit. The stand-in starts and stops the server and answers what a move asks; all else is real."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

UNIT = "mariadb-of-a-test.service"
_SYSTEMCTL = """#!/bin/sh
# systemctl of a test, for the one unit {unit}.
pid() {{ {{ read -r p <{root}/pid; }} 2>/dev/null && [ "/proc/$p/exe" -ef /usr/sbin/mariadbd ]; }}
case "$1 $*" in
  *'-p LoadState'*) echo loaded;;
  *'-p MainPID'*) if pid; then echo "$p"; else echo 0; fi;;
  *'-p RequiresMountsFor'*) sed -n 's/^RequiresMountsFor=//p' {root}/units/{unit}.d/*.conf 2>/dev/null | tr -d '"';;
  is-active*) if pid; then echo active; else echo inactive; exit 3; fi;;
  start*)
    pid && exit 0
    setsid setpriv --reuid=nobody --regid=nogroup --clear-groups -- /usr/sbin/mariadbd --no-defaults \\
      --datadir={directory} --socket={root}/socket --pid-file={root}/pid --skip-networking \\
      --innodb-buffer-pool-size=64M --innodb-log-file-size=32M >>{root}/log 2>&1 </dev/null &
    i=0; until pid && [ -S {root}/socket ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done;;
  stop*)
    pid || exit 0
    kill "$p"; while pid; do sleep 0.05; done;;
esac
exit 0
"""


_SCHEMA = """create database app;
create table app.acknowledged (client int, number int, primary key (client, number));
use app;
create table filler engine=InnoDB as select seq, repeat(md5(seq), 20) t from seq_1_to_40000;
"""


@dataclass
class MariaDb:
    """Its data is in `directory`; a statement is sent through the client."""

    root: Path
    directory: Path

    def client(self) -> list[str]:
        """The words that start a client."""
        return ["mariadb", "--no-defaults", "-N", "-B", "-u", "root", "-S", str(self.root / "socket")]

    def sql(self, text: str) -> str:
        done = subprocess.run(self.client(), input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def systemctl(self, *words: str) -> str:
        return subprocess.run(["systemctl", *words, UNIT], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def mariadb(root: Path, directory: Path) -> Iterator[MariaDb]:
    """A running server; the caller has put `root`/bin in front of PATH."""
    (root / "bin").mkdir()
    (root / "units").mkdir()
    script = root / "bin/systemctl"
    script.write_text(_SYSTEMCTL.format(unit=UNIT, root=f"'{root}'", directory=f"'{directory}'"))
    script.chmod(0o755)
    plain = directory.with_name("installed")  # its installer takes no blanks
    plain.mkdir(parents=True)
    for path in (root, plain):
        shutil.chown(path, "nobody", "nogroup")
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={plain}", "--user=nobody", "--skip-test-db"]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True, timeout=120)
    plain.rename(directory)
    server = MariaDb(root, directory)
    server.systemctl("start")
    try:
        server.sql(_SCHEMA)
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):
            server.systemctl("stop")


@dataclass
class Writers:
    """Clients at work until the end of a `with` block; each knows what it was told."""

    server: MariaDb
    clients: int = 3
    acknowledged: list[tuple[int, int, float]] = field(default_factory=list)
    unknown: set[tuple[int, int]] = field(default_factory=set)

    def __enter__(self) -> Writers:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count: int) -> None:
        """Until so many more commits were acknowledged."""
        aim, end = len(self.acknowledged) + count, time.monotonic() + 60
        while len(self.acknowledged) < aim:
            assert time.monotonic() < end, "no commits were acknowledged within a minute"
            time.sleep(0.02)

    def longest_gap(self) -> float:
        """Seconds between two acknowledged commits."""
        times = sorted(when for _, _, when in self.acknowledged)
        return max(after - before for before, after in itertools.pairwise(times))

    def verdict(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """What was lost of the acknowledged, and what is there that nobody sent or that has no fate."""
        said = self.server.sql("select client, number from app.acknowledged").splitlines()
        there = {(int(client), int(number)) for client, number in map(str.split, said)}
        told = {(client, number) for client, number, _ in self.acknowledged}
        return told - there, there - told - self.unknown

    def _client(self, line: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def _work(self, client: int) -> None:
        line = [
            "mariadb",
            "--no-defaults",
            "-N",
            "-B",
            "--unbuffered",
            "-u",
            "root",
            "-S",
            str(self.server.root / "socket"),
        ]
        number = 0
        while not self._stop.is_set():
            # A client that has gone is met when its pipe is written, and again when it is closed.
            with suppress(BrokenPipeError), self._client(line) as session:
                assert session.stdin
                assert session.stdout
                while not self._stop.is_set():
                    number += 1
                    self.unknown.add((client, number))
                    insert = f"insert into app.acknowledged values ({client}, {number});"  # noqa: S608
                    session.stdin.write(f"{insert}\nselect {number};\n")
                    session.stdin.flush()
                    if session.stdout.readline().strip() != str(number):
                        break
                    self.unknown.discard((client, number))
                    self.acknowledged.append((client, number, time.monotonic()))
                    time.sleep(0.02)
                session.kill()
            time.sleep(0.05)


def path_with(root: Path) -> str:
    """PATH with the stand-in in front."""
    return f"{root}/bin:{os.environ['PATH']}"
