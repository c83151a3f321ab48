"""The practice database as one machine has it: its passwords, and how much it holds."""

from __future__ import annotations

from runbooks_lib.training.lab.machine import Machine

_PSQL = "runuser -u postgres -- psql --quiet --no-psqlrc --set ON_ERROR_STOP=1"
_ROW_BYTES = 8192  # a page: one row fills it
_FILL_SECONDS_PER_MB = 0.6


def set_passwords(machine: Machine) -> None:
    """Give the roles the passwords of the machine's record, and its pooler their verifiers.

    They go through stdin, and are kept out of the server's log, which writes down slow statements.
    """
    statements = "".join(
        f"alter role {login} password '{password}';\n" for login, password in machine.record.passwords.items()
    )
    machine.sh(
        f"""cd /
{_PSQL} <<'END'
set log_min_duration_statement = -1;
set log_statement = none;
{statements}END
{_PSQL} --tuples-only --no-align > /etc/pgbouncer/userlist.txt <<'END'
select format('"%s" "%s"', rolname, rolpassword) from pg_authid where rolpassword is not null;
END
systemctl reload pgbouncer"""  # noqa: S608 - our own names, and passwords without quotes
    )


def enlarge(machine: Machine, megabytes: int) -> None:
    """Grow the volume under the database and put this much into a table `build_history`, as rows of one page each.

    The volume gets half of it on top, for its WAL and for what comes; the rest of the bigger disk is free in the group.
    """
    rows = megabytes * 1024**2 // _ROW_BYTES
    machine.sh(
        f"""cd /
pvresize --quiet /dev/disk/by-id/virtio-data > /dev/null
lvextend --quiet --resizefs --size +{megabytes * 3 // 2}M data/db > /dev/null
{_PSQL} buildserver <<'END'
create table build_history (id bigint primary key, body text);
alter table build_history alter column body set storage plain;
insert into build_history select n, repeat(md5(n::text), 250) from generate_series(1, {rows}) n;
alter table build_history owner to buildserver;
checkpoint;
END""",  # noqa: S608 - our own number
        deadline_seconds=120 + _FILL_SECONDS_PER_MB * megabytes,
    )
