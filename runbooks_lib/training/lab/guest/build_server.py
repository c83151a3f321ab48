"""The build server of the practice machines: a small real program whose queue lives in PostgreSQL.

It takes builds, gives them to agents, serves a status page and answers for its queue in TeamCity's shape:

    GET  /                          the status page
    GET  /app/rest/server           version and times
    GET  /app/rest/buildQueue       what waits, oldest first
    POST /app/rest/buildQueue       {"buildType": {"id": "Core_Compile"}}: one more build; answered after the commit
    GET  /app/rest/builds           what runs, and what was finished last; ?locator=running:true for the former alone
    GET  /app/rest/agents           the agents, and whether each is connected; ?locator=connected:true

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
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2  # type: ignore[import-untyped]

DATABASE = "dbname=buildserver connect_timeout=5 application_name=build-server"
ADDRESS = ("0.0.0.0", 8111)  # noqa: S104 - inside the machine; the operator's side forwards a loopback port only
AGENTS = ("agent-1", "agent-2", "agent-3")
VERSION = "2026.1 (lab)"
RETRY_SECONDS = 2.0
IDLE_SECONDS = 1.0
BUSY_SECONDS = 0.05
HEARTBEAT_SECONDS = 5.0
BUILD_ROUNDS = 40  # of hashing 64 KiB: some CPU for every build, so that a stall shows as missing load
LOG_LINES = 20
STALLED_SECONDS = 10.0  # the scheduler writes every HEARTBEAT_SECONDS at least
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
            for agent in self.agents:
                self.take_report(agent)
            self.give([agent for agent in self.agents if agent.build is None and agent.done is None])
            busy = any(agent.build is not None or agent.done is not None for agent in self.agents)
            time.sleep(BUSY_SECONDS if busy else IDLE_SECONDS)

    def take_report(self, agent: Agent) -> None:
        # In this order: an agent reports before it is idle, so an idle one's report is seen before its next build.
        if agent.build is None and agent.done is not None:
            build, lines = agent.done
            self.write(
                "with log as (insert into build_logs select %s, line from unnest(%s) line)"
                " update builds set state = 'finished', finished_at = now() where id = %s",
                build,
                lines,
                build,
            )
            agent.done = None

    def give(self, idle: list[Agent]) -> None:
        """The oldest waiting builds go to the idle agents, in one statement: an idle server hardly works."""
        if not idle:
            return
        rows = self.write(
            "update builds set state = 'running', started_at = now(), agent = free.name"
            " from (select id, row_number() over (order by id) as turn from builds where state = 'queued'"
            " order by id limit %s) as next, unnest(%s) with ordinality as free (name, turn)"
            " where builds.id = next.id and free.turn = next.turn returning builds.agent, builds.id",
            len(idle),
            [agent.name for agent in idle],
        )
        given = {row[0]: row[1] for row in rows}
        for agent in idle:
            if agent.name in given:
                agent.begin(given[agent.name])

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
        asked = urlsplit(self.path)
        locator = parse_qs(asked.query).get("locator", [""])[0]
        pages: dict[str, Callable[[Database], object]] = {
            "/app/rest/server": rest_server,
            "/app/rest/buildQueue": rest_queue,
            "/app/rest/builds": lambda database: rest_builds(database, running_only="running:true" in locator),
            "/app/rest/agents": lambda database: rest_agents(database, connected_only="connected:true" in locator),
        }
        path = asked.path.rstrip("/")
        if path == "":
            self.page()
        elif path in pages:
            self.answer(pages[path])
        else:
            self.send(404, "application/json", b'{"errors": [{"message": "no such resource"}]}')

    def page(self) -> None:
        """The status page tells even then when the database says nothing."""
        code, text = 200, ""
        with closing(Database()) as database:
            try:
                text = status_page(*queue_state(database))
            except psycopg2.Error as error:
                code, text = 503, status_page(None, [], [], [], " ".join(str(error).split()))
        self.send(code, "text/html; charset=utf-8", text.encode())

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
        self.answer(lambda database: rest_enqueue(database, build_type, key))

    def answer(self, ask: Callable[[Database], object]) -> None:
        with closing(Database()) as database:
            try:
                code, said = 200, ask(database)
            except psycopg2.Error as error:
                code, said = 503, {"errors": [{"message": " ".join(str(error).split())}]}
        self.send(code, "application/json", json.dumps(said).encode())

    def send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about requests: the journal of a practice machine is small."""


def rest_server(_database: Database) -> object:
    major, minor = VERSION.split(" ")[0].split(".")
    return {
        "version": VERSION,
        "versionMajor": int(major),
        "versionMinor": int(minor),
        "startTime": stamp(STARTED),
        "currentTime": stamp(datetime.now(UTC)),
    }


BUILD = "id, build_type, state, queued_at, started_at, finished_at, agent"


def rest_build(row: Row) -> dict[str, object]:
    number, build_type, state, queued_at, started_at, finished_at, agent = row
    kind = "buildQueue" if state == "queued" else "builds"
    said: dict[str, object] = {"id": number, "buildTypeId": build_type, "state": state}
    said |= {"href": f"/app/rest/{kind}/id:{number}", "queuedDate": stamp(queued_at)}
    if state == "queued":
        trouble = STATUS.read()[1]
        said["waitReason"] = f"The server cannot write: {trouble}" if trouble else "There are no idle agents"
    for name, when in (("startDate", started_at), ("finishDate", finished_at)):
        if when is not None:
            said[name] = stamp(when)
    return said | ({"agent": {"name": agent}} if agent else {})


def rest_queue(database: Database) -> object:
    count = database.run("select count(*) from builds where state = 'queued'")[0][0]
    rows = database.run(f"select {BUILD} from builds where state = 'queued' order by id limit 100")  # noqa: S608
    return {"count": count, "href": "/app/rest/buildQueue", "build": [rest_build(row) for row in rows]}


def rest_builds(database: Database, *, running_only: bool) -> object:
    rows = database.run(f"select {BUILD} from builds where state = 'running' order by id")  # noqa: S608
    if not running_only:
        rows += database.run(f"select {BUILD} from builds where state = 'finished' order by id desc limit 100")  # noqa: S608
    return {"count": len(rows), "href": "/app/rest/builds", "build": [rest_build(row) for row in rows]}


def rest_enqueue(database: Database, build_type: str, key: str | None) -> object:
    rows = database.run(
        f"insert into builds (build_type, client_key) values (%s, %s) returning {BUILD}",  # noqa: S608
        build_type,
        key,
    )
    return rest_build(rows[0])


def rest_agents(database: Database, *, connected_only: bool) -> object:
    rows = database.run(
        "select name, seen_at > now() - interval '15 s' from agents"
        " where not %s or seen_at > now() - interval '15 s' order by name",
        connected_only,
    )
    found = [{"name": name, "connected": connected, "enabled": True} for name, connected in rows]
    return {"count": len(found), "href": "/app/rest/agents", "agent": found}


CHART_MINUTES = 30
SHOWN_BUILDS = 8


def queue_state(database: Database) -> tuple[Row, list[Row], list[Row], list[Row]]:
    """The four figures; builds finished in each of the last minutes; the agents and what they build; who waits."""
    figures = database.run(
        "select count(*) filter (where state = 'queued'),"
        " extract(epoch from now() - min(queued_at) filter (where state = 'queued')),"
        " count(*) filter (where state = 'running'),"
        " count(*) filter (where finished_at > now() - interval '1 min') from builds"
    )[0]
    minutes = database.run(
        "select n, count(finished_at) from generate_series(%s, 0, -1) n left join builds on finished_at"
        " between now() - n * interval '1 min' - interval '1 min' and now() - n * interval '1 min'"
        " group by n order by n desc",
        CHART_MINUTES - 1,
    )
    agents = database.run(
        "select name, seen_at > now() - interval '15 s', build_type, builds.id from agents"
        " left join builds on state = 'running' and agent = name order by name"
    )
    waiting = database.run(
        "select id, build_type, extract(epoch from now() - queued_at) from builds where state = 'queued'"
        " order by id limit %s",
        SHOWN_BUILDS,
    )
    return figures, minutes, agents, waiting


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem }
.state { padding: .7rem 1rem; border-radius: .4rem; color: #fff; background: #1a7f37 }
.state.stalled { background: #b42318 }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; padding: 0; list-style: none }
.figures li { flex: 1 0 9rem; padding: .6rem .9rem; border: 1px solid var(--line); border-radius: .4rem }
.figures b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0 }
th { font-weight: 600 } tr + tr td { border-top: 1px solid var(--soft) }
svg { display: block; width: 100%; height: 5rem; border-bottom: 1px solid var(--line) } rect { fill: #1a7f37 }
small { opacity: .75 }
"""


def duration(seconds: float) -> str:
    """Seconds in words for people: 42 s, 3 min, 2 h 5 min."""
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"


def cells(tag: str, *values: object) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values) + "</tr>"


def chart(minutes: list[Row]) -> str:
    """Bars of builds finished in each minute, the last one to the right; high enough for ten at least."""
    top = max([10, *(count for _, count in minutes)])
    bars = "".join(
        f'<rect x="{at * 10 + 1}" y="{50 - 50 * count / top:.1f}" width="8" height="{50 * count / top:.1f}"/>'
        for at, (_, count) in enumerate(minutes)
    )
    return (
        f'<svg viewBox="0 0 {10 * CHART_MINUTES} 50" preserveAspectRatio="none" role="img"'
        f' aria-label="Builds finished in each of the last {CHART_MINUTES} minutes">{bars}</svg>'
        f"<small>{CHART_MINUTES} minutes until now; the frame is {top} builds a minute high</small>"
    )


def status_page(
    figures: Row | None, minutes: list[Row], agents: list[Row], waiting: list[Row], unread: str = ""
) -> str:
    """Whether the scheduler gets on, in words, then the figures; with `unread`, why there are none."""
    since, trouble = STATUS.read()
    trouble = trouble or unread
    if trouble or since > STALLED_SECONDS:
        words = f"Stalled for {duration(since)}: {trouble or 'the database does not answer'}"
        state = f'<p class="state stalled">{html.escape(words)}</p>'
    else:
        state = '<p class="state">Scheduling</p>'
    body = ""
    if figures is not None:
        queued, oldest, running, finished = figures
        shown = (
            ("waiting", queued),
            ("oldest waits", duration(oldest or 0)),
            ("running", running),
            ("finished in the last minute", finished),
        )
        body += '<ul class="figures">' + "".join(f"<li><b>{value}</b>{name}</li>" for name, value in shown) + "</ul>"
        body += f"<h2>Finished builds</h2>{chart(minutes)}"
        body += "<h2>Agents</h2><table>" + cells("th", "Agent", "State", "Builds")
        for name, connected, build_type, number in agents:
            doing = f"#{number} {build_type}" if number else "nothing"
            body += cells("td", name, "connected" if connected else "not seen for 15 s", doing)
        body += "</table><h2>Next in the queue</h2>"
        rows = "".join(cells("td", f"#{number}", kind, duration(wait)) for number, kind, wait in waiting)
        body += f"<table>{cells('th', 'Build', 'Type', 'Waits')}{rows}</table>" if rows else "<p>Nobody waits.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        '<meta name="viewport" content="width=device-width"><title>Build server</title>'
        f"<style>{STYLE}</style><h1>Build server</h1>{state}{body}"
        f"<p><small>{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, version {VERSION}</small></p></html>"
    )


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
