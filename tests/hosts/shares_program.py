"""A round over two processes, in a process of its own: `python -m tests.hosts.shares_program CONFIG ROUNDS NAME...`.

Prints a line `row NAME` as each row comes, then `rows` or `interrupted` with a JSON list of [name, state, value,
message].
Hosts whose name begins with `slow` sleep for ever, `odd` ones have a value that cannot be handed over.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from functools import partial

from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.hosts.pool import Interrupted, Outcome
from runbooks_lib.hosts.shares import Shares
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve


def work(host: Host) -> object:
    if host.name.startswith("odd"):
        return threading.Lock()
    text = "sleep 300" if host.name.startswith("slow") else "echo read"
    return [os.getpid(), host.run(Script(text), deadline_seconds=60).stdout.decode()]


def told(word: str, rows: list[Outcome[object]]) -> None:
    print(word, json.dumps([[row.host, row.state, row.value, str(row.error or "")] for row in rows]), flush=True)


def main() -> None:
    config, rounds, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    hosts = [SshHost(name, settings_source=partial(resolve, config_file=config)) for name in names]
    with Shares[object](hosts, work, processes=2) as shares:
        for _ in range(rounds):
            try:
                rows = shares.round(
                    workers=8,
                    deadline_seconds=float(os.environ.get("DEADLINE", "50")),
                    on_progress=lambda row: print("row", row.host, flush=True),
                    keep_connections=rounds > 1,
                )
            except Interrupted as stopped:
                told("interrupted", list(stopped.outcomes))
                return
            told("rows", rows)


if __name__ == "__main__":
    main()
