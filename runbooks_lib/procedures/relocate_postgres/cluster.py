"""The database that is to be moved: what is read of it before anything, and the names that all steps use.

A server is found by its directory alone: `postmaster.pid` there names its process, and the process's working directory
is the data directory (the PostgreSQL manual, "File locations", and postmaster.c). So two servers on one host are never
mixed up, and it does not matter who started it.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runbooks_lib.procedures.relocate_postgres.apart import Apart, apart_of, left_behind, parse_mappings
from runbooks_lib.procedures.relocate_postgres.apart import shell as apart_shell
from runbooks_lib.runbook.quoting import text_of, word, words
from runbooks_lib.runbook.step import Known

LOOK = "look"
_SQL = """select json_build_object(
 'identifier', (select system_identifier::text from pg_control_system()),
 'version', current_setting('server_version_num')::int,
 'data_directory', current_setting('data_directory'),
 'config_file', current_setting('config_file'),
 'in_recovery', pg_is_in_recovery(),
 'superuser', (select rolsuper from pg_roles where rolname = current_user),
 'timeline', (select timeline_id from pg_control_checkpoint()),
 'tablespaces', (select coalesce(json_agg(json_build_object('oid', oid::text, 'name', spcname,
    'location', pg_tablespace_location(oid)) order by oid), '[]') from pg_tablespace where oid not in (1663, 1664)))"""
# Names of the environment that the server was started with and that a new start must have too; the rest is systemd's
# and pg_ctl's.
_ENVIRONMENT = "LANG|LC_[A-Z]*|TZ|PG_OOM_ADJUST_FILE|PG_OOM_ADJUST_VALUE"
# What a login, systemd or PostgreSQL itself puts there, and nobody misses.
_USUAL = (
    "PATH|HOME|USER|LOGNAME|SHELL|PWD|OLDPWD|SHLVL|TERM|MAIL|_|PGDATA|PGLOCALEDIR|PGSYSCONFDIR|PG_GRANDPARENT_PID|"
    "INVOCATION_ID|JOURNAL_STREAM|NOTIFY_SOCKET|MAINPID|MANAGERPID|(SYSTEMD|SSH|SUDO|XDG|DBUS)_.*"
)
_READ = """cd / || exit 1
fail() {{ printf '%s\\n' "$*" >&2; exit 3; }}
say() {{ printf '%s ' "$1"; printf %s "$2" | od -An -v -tx1 | tr -d ' \\n'; echo; }}
P={directory}
if [ -L "$P" ] && [ ! -d "$P" ]; then
  fail "$P leads to $(readlink -- "$P"), which is not there: is its partition mounted? (findmnt --verify)"
fi
[ -d "$P" ] || fail "$P is no directory"
[ -n "$(ls -A -- "$P")" ] || fail "$P is empty: is its partition mounted? Never run initdb there (findmnt --verify)"
R=$(readlink -f -- "$P") || fail "$P does not resolve"
pid=; {{ read -r pid <"$R/postmaster.pid"; }} 2>/dev/null
case $pid in ''|*[!0-9]*) fail "no PostgreSQL server runs on $P: there is no postmaster.pid";; esac
[ "/proc/$pid/cwd" -ef "$R" ] || fail "no PostgreSQL server runs on $P: its postmaster.pid is stale"
{{ read -r x; read -r x; read -r x; read -r port; read -r sockets; }} <"$R/postmaster.pid"
exe=$(readlink "/proc/$pid/exe")
owner=$(stat -c %U -- "$R") group=$(stat -c %G -- "$R")
say real "$R"; say exe "${{exe% (deleted)}}"; say owner "$owner"; say group "$group"; say port "$port"
say sockets "$sockets"
printf 'arguments '; od -An -v -tx1 <"/proc/$pid/cmdline" | tr -d ' \\n'; echo
printf 'environment '; tr '\\000' '\\n' <"/proc/$pid/environ" | grep -E '^({environment})=' | od -An -v -tx1 |
  tr -d ' \\n'; echo
printf 'dropped '; tr '\\n\\000' '\\001\\n' <"/proc/$pid/environ" | sed -n 's/=.*//p' |
  grep -vxE '{environment}|{usual}' | od -An -v -tx1 | tr -d ' \\n'; echo
log=$(readlink "/proc/$pid/fd/2"); [ -f "$log" ] || log=
say log "$log"
unit=
if [ -d /run/systemd/system ]; then
  while IFS= read -r line; do case $line in */*.service) unit=${{line##*/}};; esac; done <"/proc/$pid/cgroup"
fi
say unit "$unit"
link=; [ ! -L "$P" ] || link=$(readlink -- "$P")
say link "$link"
wal=; [ ! -L "$R/pg_wal" ] || wal=$(readlink -f -- "$R/pg_wal")
say wal "$wal"
say answer "$(setpriv --reuid="$owner" --regid="$group" --init-groups -- "${{exe%/*}}/psql" -XAtqw -v ON_ERROR_STOP=1 \\
  -h "${{sockets%%,*}}" -p "$port" -U "$owner" -d postgres -c {sql})" || fail "psql gave no answer"
"""


def read_cluster(known: Known) -> str:
    """The script that reads a running server's facts, as root."""
    return _READ.format(
        directory=word(known.parameters["directory"]), environment=_ENVIRONMENT, usual=_USUAL, sql=word(_SQL)
    )


def parse_cluster(answer: bytes) -> dict[str, Any]:
    """The facts as JSON-like values. Raises ValueError."""
    found: dict[str, Any] = {}
    for line in answer.decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        found[name] = text_of(bytes.fromhex(value))
    if not found.get("answer"):
        raise ValueError("the server did not answer a superuser that is called as the directory's owner")
    found.update(json.loads(found.pop("answer")))
    found["arguments"] = found["arguments"].rstrip("\0").split("\0")
    found["environment"] = sorted(filter(None, found["environment"].split("\n")))
    found["dropped"] = sorted(filter(None, found.get("dropped", "").split("\n")))
    missing = {"real", "exe", "owner", "group", "port", "identifier"} - {name for name in found if found[name]}
    if missing:
        raise ValueError(f"not told: {', '.join(sorted(missing))}")
    return found


@dataclass(frozen=True)
class Cluster:
    """A server with its names: `directory` as clients of the host know it, `real` where it lay when looked at, `target`
    where it goes, `asked` the parameters. `kept` is what the old directory is called afterwards, `work` holds the
    marks of this move."""

    directory: str
    target: str
    facts: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def real(self) -> str:
        return str(self.facts["real"])

    @property
    def kept(self) -> str:
        return self.real + ".relocated"

    @property
    def work(self) -> str:
        return self.target + ".relocation"

    @property
    def programs(self) -> str:
        return posixpath.dirname(str(self.facts["exe"]))

    @property
    def moved_before(self) -> bool:
        """It lay at the target already when it was looked at."""
        return self.real == self.target

    @property
    def short(self) -> str:
        """A short name that is its own on the host. A socket's path may be 107 bytes long, and the target longer."""
        return hashlib.sha256(f"{self.facts['identifier']} {self.target}".encode(errors="surrogateescape")).hexdigest()[
            :10
        ]

    @property
    def slot(self) -> str:
        return f"relocate_{self.short}"

    @property
    def sockets(self) -> str:
        return f"/run/relocate-{self.short}"

    @property
    def old_sockets(self) -> str:
        return str(self.facts["sockets"]).partition(",")[0]

    @property
    def apart(self) -> list[Apart]:
        """What lies outside of the directory, and where the copy has it."""
        mappings = parse_mappings(self.asked.get("tablespaces", ()))
        return apart_of(self.facts, self.target, self.short, mappings, str(self.asked.get("wal", "")))

    def shell(self) -> str:
        """The shell text in which every script of the move begins: names and a few functions. It changes nothing."""
        names = {
            "P": self.directory,
            "R": self.real,
            "K": self.kept,
            "T": self.target,
            "W": self.work,
            "ID": str(self.facts["identifier"]),
            "BIN": self.programs,
            "OWNER": str(self.facts["owner"]),
            "GROUP": str(self.facts["group"]),
            "PORT": str(self.facts["port"]),
            "SOCKETS": self.old_sockets,
            "NEW": self.sockets,
            "SLOT": self.slot,
            "UNIT": str(self.facts["unit"]),
            "STANDBY": f"relocate-{self.short}",
        }
        outside = apart_shell(self.apart, left_behind(self.facts))
        return "".join(f"{name}={word(value)}\n" for name, value in names.items()) + outside + _FUNCTIONS


# `runs DIRECTORY` is proven by the process's working directory: a number in a file may belong to anybody by now.
_FUNCTIONS = """cd / || exit 1
LC_ALL=C; export LC_ALL; umask 022
as() { setpriv --reuid="$OWNER" --regid="$GROUP" --init-groups -- "$@"; }
ask() { as "$BIN/psql" -XAtqw -v ON_ERROR_STOP=1 -h "$1" -p "$PORT" -U "$OWNER" -d postgres -c "$2"; }
old() { ask "$SOCKETS" "$1"; }
new() { ask "$NEW" "$1"; }
runs() { pid=; { read -r pid <"$1/postmaster.pid"; } 2>/dev/null || return 1
  case $pid in ''|*[!0-9]*) return 1;; esac; [ "/proc/$pid/cwd" -ef "$1" ]; }
control() { said=$("$BIN/pg_controldata" -D "$1" 2>&1); }
field() { value=; case $said in *"$1:"*) value=${said#*"$1:"}; value=${value%%"$nl"*}
  value=${value#"${value%%[! ]*}"};; esac; }
nl='
'
fail() { printf '%s\\n' "$*" >&2; exit 1; }
"""


def cluster_of(parameters: Mapping[str, Any], facts: Mapping[str, Any]) -> Cluster:
    """The names of a move with these parameters."""
    return Cluster(str(parameters["directory"]), str(parameters["target"]), facts, parameters)


def cluster(known: Known) -> Cluster:
    """The names of the move, from what `look` read."""
    return cluster_of(known.parameters, known.outputs[LOOK]["cluster"])


def other_names(of: Cluster) -> list[str]:
    """The paths other than `directory` by which the server, or its command line, names its data. Where `-D` names the
    directory of its configuration, that is none."""
    given = list(of.facts["arguments"])[1:]
    named = [str(of.facts["data_directory"])]
    for before, argument in zip(["", *given], given, strict=False):
        if before == "-D":
            named.append(argument)
        for prefix in ("-D", "--data-directory=", "--data_directory="):
            if argument.startswith(prefix) and argument != prefix:
                named.append(argument.removeprefix(prefix))
                break
    mine = {of.directory}
    if _configured_apart(of):
        mine.add(posixpath.dirname(str(of.facts["config_file"])))
    return [each for each in map(posixpath.normpath, named) if each not in mine]


def _configured_apart(of: Cluster) -> bool:
    """`-D` names the directory of its configuration and not of its data (the manual, "File Locations")."""
    configuration = posixpath.dirname(str(of.facts["config_file"]))
    given = list(of.facts["arguments"])[1:]
    return configuration not in (of.real, of.directory, of.facts["data_directory"]) and any(
        each in (f"-D{configuration}", configuration) for each in given
    )


def server_arguments(of: Cluster, directory: str) -> list[str]:
    """The arguments that the server was started with, its directory replaced. Where `-D` names the directory of its
    configuration and not of its data (the manual, "File Locations"), it stays, and the data's is told beside it."""
    given, arguments, take = list(of.facts["arguments"])[1:], [], False
    for argument in given:
        if take:
            take = False
        elif argument == "-D":
            take = True
        elif argument.startswith(("-D", "--data-directory=", "--data_directory=")):
            continue
        else:
            arguments.append(argument)
    if _configured_apart(of):
        configuration = posixpath.dirname(str(of.facts["config_file"]))
        return ["-D", configuration, "-c", f"data_directory={directory}", *arguments]
    return ["-D", directory, *arguments]


def shell_arguments(arguments: list[str]) -> str:
    """Arguments as words of a shell."""
    return words(*arguments)
