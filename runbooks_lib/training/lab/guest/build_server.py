"""The build server of the practice machines: a small real program whose queue lives in PostgreSQL.

It takes builds, gives them to agents, serves a status page and answers for its queue in TeamCity's shape:

    GET  /                          the status page
    GET  /app/rest/server           version and times
    GET  /app/rest/buildQueue       what waits, oldest first
    POST /app/rest/buildQueue       {"buildType": {"id": "Core_Compile"}}: one more build; answered after the commit
    GET  /app/rest/agents           the agents, and whether each is connected

One thread schedules and one connection writes for it, as in the server this was learned from. So when the database
cannot write (disk full, lock held, disk dead), that thread waits, no agent gets work, and the whole host goes quiet
while the queue grows: CPU, disk and network fall *below* their usual level. Reading goes on as long as the database
lets one read. It runs with Debian's python3 and psycopg2 and imports nothing of the library.
"""

from __future__ import annotations

import hashlib
import html
import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import psycopg2  # type: ignore[import-untyped]

DATABASE = "dbname=buildserver connect_timeout=5 application_name=build-server"
ADDRESS = ("0.0.0.0", 8111)  # noqa: S104 - inside the machine; the operator's side forwards a loopback port only
AGENTS = ("agent-1", "agent-2", "agent-3")
VERSION = "2026.1 (lab)"
RETRY_SECONDS = 2.0
IDLE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
BUILD_ROUNDS = 40  # of hashing 64 KiB: some CPU for every build, so that a stall shows as missing load
LOG_LINES = 20
STARTED = datetime.now(UTC)

Row = tuple[Any, ...]


def stamp(when: datetime) -> str:
    """TeamCity's way of writing a time: 20261123T221500+0000."""
    return when.astimezone(UTC).strftime("%Y%m%dT%H%M%S%z")


class Status:
    """What the status page says beside the database: why the scheduler waits, and since when it last got on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.progress = time.monotonic()
        self.trouble = ""

    def good(self) -> None:
        with self.lock:
            self.progress, self.trouble = time.monotonic(), ""

    def bad(self, error: Exception) -> None:
        words = " ".join(str(error).split())
        with self.lock:
            if words != self.trouble:
                print(f"the database did not take a change: {words}", file=sys.stderr)
            self.trouble = words

    def read(self) -> tuple[float, str]:
        with self.lock:
            return time.monotonic() - self.progress, self.trouble


STATUS = Status()


class Database:
    """One connection that is made again after every failure; each thread has its own."""

    def __init__(self) -> None:
        self.connection: Any = None

    def run(self, statement: str, *values: object) -> list[Row]:
        """Run one statement in a transaction of its own and return its rows; raises psycopg2.Error."""
        try:
            if self.connection is None:
                self.connection = psycopg2.connect(DATABASE)
            with self.connection, self.connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall()) if cursor.description else []
        except psycopg2.Error:
            self.close()
            raise

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def until_written(database: Database, work: Callable[[], list[Row]]) -> list[Row]:
    """Try until the database takes it. This is where the whole server stalls when its disk is full."""
    while True:
        try:
            rows = work()
        except psycopg2.Error as error:
            STATUS.bad(error)
            database.close()
            time.sleep(RETRY_SECONDS)
        else:
            STATUS.good()
            return rows


class Scheduler(threading.Thread):
    """Gives the oldest waiting build to an idle agent, and writes what agents report. One thread, one connection."""

    def __init__(self, agents: list[Agent]) -> None:
        super().__init__(name="scheduler", daemon=True)
        self.agents = agents
        self.database = Database()

    def run(self) -> None:
        # A build that was running when the server died was never finished: it waits again.
        self.write("update builds set state = 'queued', agent = null, started_at = null where state = 'running'")
        seen = 0.0
        while True:
            if time.monotonic() - seen > HEARTBEAT_SECONDS:
                self.write(
                    "insert into agents select name, now() from unnest(%s) name"
                    " on conflict (name) do update set seen_at = excluded.seen_at",
                    [agent.name for agent in self.agents],
                )
                seen = time.monotonic()
            busy = False
            for agent in self.agents:
                busy = self.serve(agent) or busy
            time.sleep(0.02 if busy else IDLE_SECONDS)

    def serve(self, agent: Agent) -> bool:
        # In this order: an agent reports before it is idle, so an idle one's report is seen before its next build.
        if agent.build is not None:
            return True
        if agent.done is not None:
            build, lines = agent.done
            self.write(
                "with log as (insert into build_logs select %s, line from unnest(%s) line)"
                " update builds set state = 'finished', finished_at = now() where id = %s",
                build,
                lines,
                build,
            )
            agent.done = None
        rows = self.write(
            "update builds set state = 'running', started_at = now(), agent = %s where id ="
            " (select id from builds where state = 'queued' order by id limit 1) returning id",
            agent.name,
        )
        if rows:
            agent.begin(rows[0][0])
        return bool(rows)

    def write(self, statement: str, *values: object) -> list[Row]:
        return until_written(self.database, lambda: self.database.run(statement, *values))


class Agent(threading.Thread):
    """Builds: hashes a while, then has a log. It never touches the database itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.build: int | None = None
        self.done: tuple[int, list[str]] | None = None
        self.wake = threading.Event()

    def begin(self, build: int) -> None:
        self.build = build
        self.wake.set()

    def run(self) -> None:
        block = bytes(65536)
        while True:
            self.wake.wait()
            self.wake.clear()
            build = self.build
            if build is None:
                continue
            digest = hashlib.sha256(str(build).encode())
            for _ in range(BUILD_ROUNDS):
                digest.update(block)
            lines = [f"[step {step}] {digest.hexdigest()} compiled and tested" for step in range(LOG_LINES)]
            self.done = (build, lines)
            self.build = None


class Handler(BaseHTTPRequestHandler):
    """One request; each has a connection of its own, so that a waiting one holds up nobody."""

    server_version = "BuildServer"
    timeout = 30

    def do_GET(self) -> None:
        pages: dict[str, Callable[[Database], object]] = {
            "/app/rest/server": rest_server,
            "/app/rest/buildQueue": rest_queue,
            "/app/rest/agents": rest_agents,
        }
        path = urlsplit(self.path).path.rstrip("/")
        if path == "":
            self.answer(200, status_page, "text/html; charset=utf-8")
        elif path in pages:
            self.answer(200, pages[path], "application/json")
        else:
            self.send(404, "application/json", b'{"errors": [{"message": "no such resource"}]}')

    def do_POST(self) -> None:
        if urlsplit(self.path).path.rstrip("/") != "/app/rest/buildQueue":
            self.send(404, "application/json", b'{"errors": [{"message": "no such resource"}]}')
            return
        try:
            length = min(int(self.headers.get("Content-Length", "0")), 65536)
            asked = json.loads(self.rfile.read(length) or b"{}")
            build_type = str(asked["buildType"]["id"])[:200]
            key = str(asked["clientKey"])[:200] if "clientKey" in asked else None
        except (ValueError, KeyError, TypeError):
            self.send(400, "application/json", b'{"errors": [{"message": "expected {buildType: {id: ...}}"}]}')
            return
        self.answer(200, lambda database: rest_enqueue(database, build_type, key), "application/json")

    def answer(self, code: int, page: Callable[[Database], object], kind: str) -> None:
        database = Database()
        try:
            said = page(database)
        except psycopg2.Error as error:
            words = " ".join(str(error).split())
            self.send(503, "application/json", json.dumps({"errors": [{"message": words}]}).encode())
            return
        finally:
            database.close()
        text = said if isinstance(said, str) else json.dumps(said)
        self.send(code, kind, text.encode())

    def send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about requests: the journal of a practice machine is small."""


def rest_server(_database: Database) -> object:
    return {"version": VERSION, "startTime": stamp(STARTED), "currentTime": stamp(datetime.now(UTC))}


def rest_build(row: Row) -> dict[str, object]:
    number, build_type, state, queued_at = row
    return {"id": number, "buildTypeId": build_type, "state": state, "queuedDate": stamp(queued_at)}


def rest_queue(database: Database) -> object:
    count = database.run("select count(*) from builds where state = 'queued'")[0][0]
    rows = database.run(
        "select id, build_type, state, queued_at from builds where state = 'queued' order by id limit 100"
    )
    return {"count": count, "href": "/app/rest/buildQueue", "build": [rest_build(row) for row in rows]}


def rest_enqueue(database: Database, build_type: str, key: str | None) -> object:
    rows = database.run(
        "insert into builds (build_type, client_key) values (%s, %s) returning id, build_type, state, queued_at",
        build_type,
        key,
    )
    return rest_build(rows[0])


def rest_agents(database: Database) -> object:
    rows = database.run("select name, seen_at > now() - interval '15 s' from agents order by name")
    found = [{"name": name, "connected": connected, "enabled": True} for name, connected in rows]
    return {"count": len(found), "agent": found}


def status_page(database: Database) -> str:
    """Numbers, and in words whether the scheduler gets on."""
    numbers = database.run(
        "select count(*) filter (where state = 'queued'), count(*) filter (where state = 'running'),"
        " count(*) filter (where finished_at > now() - interval '1 min'),"
        " extract(epoch from now() - min(queued_at) filter (where state = 'queued')) from builds"
    )[0]
    waiting, running, finished, oldest = numbers
    since, trouble = STATUS.read()
    stalled = trouble or since > 10
    words = f"stalled for {since:.0f} s: {trouble or 'the database does not answer'}" if stalled else "scheduling"
    rows = (
        ("State", words),
        ("Waiting", waiting),
        ("Oldest waits", f"{oldest or 0:.0f} s"),
        ("Running", running),
        ("Finished in the last minute", finished),
    )
    table = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    return f"<!doctype html><meta charset=utf-8><title>Build server</title><h1>Build server</h1><table>{table}</table>"


def main() -> None:
    agents = [Agent(name) for name in AGENTS]
    for agent in agents:
        agent.start()
    Scheduler(agents).start()
    server = ThreadingHTTPServer(ADDRESS, Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
