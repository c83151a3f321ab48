"""What must be so before anything is copied. Each answer says what was seen, and a no says what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from runbooks_lib.procedures.relocate_postgres import labels, placing
from runbooks_lib.procedures.relocate_postgres.apart import WAL_LINK, parse_mappings
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster, other_names
from runbooks_lib.procedures.relocate_postgres.paths import PATH
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Known

# More than what the directory holds: index pages that are written while copying, and what is forgotten.
MARGIN = 0.10
LEAST_FREE_BYTES = 64 * 1024 * 1024  # four segments of WAL: with 16 MB two sessions can already stop each other
LONGEST_TRANSACTION_SECONDS = 600


def _check(title: str, text: str | Callable[[Known], str]) -> Check:
    def script(known: Known) -> str:
        return cluster(known).shell() + (text if isinstance(text, str) else text(known))

    return Check(title, script, root=True)


_TOOLS = """for each in setpriv sync mv ln readlink du df tail; do
  command -v "$each" >/dev/null || no "$each is missing on the host"
done
for each in pg_basebackup pg_controldata psql postgres pg_ctl; do
  [ -x "$BIN/$each" ] || no "$BIN/$each is missing on the host: install the package of the same version as the server"
done
yes "the programs of the server's own version are in $BIN"
"""


def _settings(known: Known) -> str:
    """Setting by setting, as `pg_basebackup` and a standby want them (the manual, "Log-Shipping Standby Servers")."""
    if known.outputs[LOOK]["cluster"]["in_recovery"]:
        return "no 'it is a standby itself: relocate its primary, or make the standby anew on the other partition'\n"
    return """said=$(old "select case
  when not (select rolsuper from pg_roles where rolname = current_user) then 'the role ' || current_user || ' is no superuser'
  when current_setting('wal_level') = 'minimal' then 'wal_level is minimal: set it to replica and restart'
  when current_setting('fsync') = 'off' or current_setting('full_page_writes') = 'off'
    then 'fsync or full_page_writes is off: a copy taken while it runs would not be sound'
  when current_setting('max_wal_senders')::int - (select count(*) from pg_stat_replication) < 3
    then 'fewer than 3 of max_wal_senders are free'
  when current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots where slot_name <> '$SLOT') < 1
    then 'none of max_replication_slots is free'
  when current_setting('synchronous_standby_names') like '%*%'
    then 'synchronous_standby_names is ' || current_setting('synchronous_standby_names')
      || ': the copy would be taken for one of its standbys; name each, and reload'
  else '' end") || cannot_tell "psql gave no answer"
[ -z "$said" ] || no "$said"
said=$(as "$BIN/psql" -XAtqw -h "$SOCKETS" -p "$PORT" -U "$OWNER" -d 'dbname=postgres replication=true' \
  -c 'IDENTIFY_SYSTEM' 2>&1) || no "it lets no replication through its socket: pg_hba.conf wants: local replication $OWNER peer ($said)"
yes "it lets $OWNER replicate through its socket"
"""  # noqa: E501


# A standby has no slot of the old server's, and unlogged tables empty. `_init` is a fork of those alone (the manual,
# "The Initialization Fork"); -follow would ask for every file's inode.
_BEHIND = """unlogged() { # DIRECTORY: the first file of an unlogged table or sequence, in `said`
  said=$(find "$1/base" "$1"/pg_tblspc/*/PG_* -name '*_init' -print 2>/dev/null | head -n 1); [ -n "$said" ]; }
behind() { # what would stay behind, in `why`
  said=$(old "select coalesce(string_agg(slot_name || ' (' || slot_type || ')', ', '), '')
    from pg_replication_slots where slot_name <> '$SLOT'") || return 2
  if [ -n "$said" ]; then
    why="replication slots would stay behind: $said; drop them and make them anew afterwards, or use relocate-directory"
  elif unlogged "$R"; then
    why="there are unlogged tables or sequences ($said is one): a standby has them empty; use relocate-directory"
  else return 1; fi
}
"""
_NOTHING_LEFT_BEHIND = """behind; case $? in 0) no "$why";; 2) cannot_tell "psql gave no answer";; esac
yes "no slots, no unlogged tables"
"""

_QUIET = """said=$(old "select coalesce(max(extract(epoch from clock_timestamp() - xact_start))::int, 0) || ' ' ||
  (select count(*) from pg_prepared_xacts) from pg_stat_activity where backend_type = 'client backend'") ||
  cannot_tell "psql gave no answer"
[ "${said% *}" -le "$LONGEST" ] ||
  no "a transaction has been open for ${said% *} s: the switch would end it; see who it is: pg_stat_activity"
yes "the longest transaction is ${said% *} s old; ${said#* } are prepared, and are moved too"
"""


_FIT = """fit() { # DIRECTORY, which need not be there yet
  parent=${1%/*}; parent=${parent:-/}
  [ -d "$parent" ] || no "$parent is not there; make it on the new partition: install -d $parent"
  [ "$(readlink -f -- "$parent")" = "$parent" ] ||
    no "$parent leads elsewhere: name $(readlink -f -- "$parent")/${1##*/}"
  case $1/ in "$R"/*) no "$1 lies in $R";; esac
  case $R/ in "$1"/*) no "$R lies in $1";; esac
  if [ -L "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; then no "$1 is there and is no directory"; fi
  [ ! -d "$1" ] || [ "$(stat -c %d -- "$1")" = "$(stat -c %d -- "$parent")" ] ||
    no "$1 is the mount point itself: name a directory below it"
  mount=$(findmnt -n -o TARGET -T "$parent") || cannot_tell "findmnt does not know where $parent is"
  options=$(findmnt -n -o OPTIONS -T "$parent")
  case ,$options, in *,ro,*) no "$mount is mounted read-only";; esac
  case ,$options, in *,noexec,*|*,nosuid,*) no "$mount is mounted $options: noexec or nosuid breaks extensions and \
scripts that lie with the data; mount -o remount,exec,suid $mount, and in /etc/fstab";; esac
  kind=$(findmnt -n -o FSTYPE -T "$parent")
  case $kind in ext4|xfs|btrfs|zfs|ext3|f2fs) ;; *) no "$mount is $kind: a database wants a disk of its own host";; esac
  as test -x "$parent" || no "$OWNER may not enter $parent"
}
"""
_APART = """fit "$T"
[ "$(stat -c %d -- "$parent")" != "$(stat -c %d -- "$R")" ] ||
  no "$T is on the same filesystem as $R ($(df -P -- "$R" | tail -n 1)): is the new partition mounted?"
yes "$mount ($kind, $options) is another filesystem than that of $R"
"""


_FREE_PLACE = """if [ -e "$K" ]; then no "$K is there: the old data of an earlier move; remove it, or rename it"; fi
if [ -d "$W" ]; then
  [ "$(cat "$W/cluster" 2>/dev/null)" = "$ID" ] || no "$W is there, and is not of a move of this database"
elif [ -e "$W" ]; then no "$W is there, and is no directory"
else
  free() { # x x DIRECTORY
    [ -d "$3" ] || return 0
    [ -z "$(ls -A -- "$3")" ] || no "$3 is not empty, and nothing says that it is a copy of this database"
    owner=$(stat -c %U:%G -- "$3")
    [ "$owner" = "$OWNER:$GROUP" ] ||
      no "$3 belongs to $owner: chown $OWNER:$GROUP, or name a directory that is not there yet"
  }
  free x x "$T" && apart free
fi
yes "$T is free"
"""


def needed_bytes(known: Known) -> int:
    """What must be free on the target: the data, the margin, and the WAL that waits for a checkpoint."""
    return int(int(known.outputs[LOOK]["size_bytes"]) * (1 + MARGIN)) + LEAST_FREE_BYTES


_ROOM = f"""wal=$(old "select pg_size_bytes(current_setting('max_wal_size'))") || cannot_tell "psql gave no answer"
disks=
comes() {{ # DIRECTORY BYTES FROM
  parent=${{1%/*}}; parent=${{parent:-/}}; disk=$(stat -c %d -- "$parent") || cannot_tell "$parent cannot be looked at"
  files=$(find "$3" -xdev | wc -l)
  case " $disks " in *" $disk "*) ;; *) disks="$disks $disk"; eval "bytes_$disk=0 files_$disk=0";; esac
  eval "bytes_$disk=$((bytes_$disk + $2)) files_$disk=$((files_$disk + files)) at_$disk=\\$parent"
}}
coming
for disk in $disks; do
  eval "need=\\$bytes_$disk files=\\$files_$disk parent=\\$at_$disk"
  set -- $(stat -f -c '%a %S %d %c' -- "$parent"); free=$(($1 * $2)) inodes=$3 all=$4
  [ $free -ge $need ] || no "$parent has $((free / 1000000)) MB free, and $((need / 1000000)) MB are needed: \
the data, a tenth, max_wal_size and {LEAST_FREE_BYTES // 1000000} MB"
  [ $all = 0 ] || [ $inodes -gt $((files + files / 10 + 100)) ] ||
    no "$parent has $inodes inodes free, and $files files come"
  echo "$parent: $((free / 1000000)) MB free, $((need / 1000000)) MB needed"
done
for each in "$R" "$R/pg_wal"; do
  set -- $(stat -f -c '%a %S' -- "$each/"); left=$(($1 * $2))
  [ $left -ge {LEAST_FREE_BYTES} ] ||
    no "only $((left / 1000000)) MB are left where $each is: relieve the disk first, WAL must not stop while copying"
done
yes "$((left / 1000000)) MB are left where the WAL is now"
"""  # noqa: S608 (our own figures)


def _room(known: Known) -> str:
    """What comes to each filesystem is summed: data, tablespaces and WAL may go to one, or to three."""
    of = cluster(known)
    comes = [f'comes "$T" {needed_bytes(known)} "$R"']
    wal = 'comes "$T" "$wal" /dev/null'
    for each in of.apart:
        if each.link == WAL_LINK:
            wal = f"comes {word(each.goes)} $((wal + {LEAST_FREE_BYTES})) /dev/null"
        else:
            size = int(known.outputs[LOOK]["apart_bytes"][each.link] * (1 + MARGIN))
            comes.append(f'comes {word(each.goes)} {size} "$R/{each.link}/"')
    return f"coming() {{\n{chr(10).join([*comes, wal])}\n}}\n{_ROOM}"


_ARCHIVER = """said=$(old "select case when current_setting('archive_mode') = 'off' then 'archive_mode is off'
  when current_setting('archive_command') in ('', '(disabled)') and coalesce(current_setting('archive_library', true), '') = ''
    then 'nothing'
  when last_failed_time > coalesce(last_archived_time, '-infinity') then 'failing'
  else 'archived ' || archived_count || ' segments' end from pg_stat_archiver") || cannot_tell "psql gave no answer"
[ "$said" != failing ] || no "archive_command fails: its WAL fills the disk while copying; mend the archiver first"
[ "$said" != nothing ] || no "archive_mode is on, and neither archive_command nor archive_library says how: its WAL is \
kept and would have a hole after the move; set one (/bin/true if nobody wants it)"
yes "$said"
"""  # noqa: E501

# A mount point moves with the directory that it is in, until the next boot puts it where fstab says.
_NO_MOUNT = """said=$(findmnt -ln -o TARGET | while IFS= read -r each; do
  case $each/ in "$R"/*) printf '%s ' "$each";; esac; done)
case $said in
  '') yes "no file system is mounted in $R";;
  "$R ") no "$R is itself a mount point and cannot be renamed: with the server stopped, unmount it, let a symlink lead to \
what is mounted there now, take its line out of /etc/fstab, start the server; then move it";;
esac
no "a file system is mounted inside $R and would be taken along by its rename: ${said% }; let a symlink lead to it first, \
or name another directory"
"""  # noqa: E501
# pg_basebackup leaves out what is neither a file nor a directory, and says so in its log alone.
_NO_LINKS = """said=$(cd -- "$R" && find . -xdev -type l ! -path './pg_tblspc/*' ! -path ./pg_wal | head -n 5 | tr '\\n' ' ') ||
  cannot_tell "$R cannot be searched"
[ -z "$said" ] || no "symlinks in $R are not copied: $said; put each file itself there, or name its place in the configuration"
yes "nothing in $R is a symlink but what moves by itself"
"""  # noqa: E501
# What the server reads when it starts and does not go by now; met after the stop it would be met too late.
_AS_CONFIGURED = """said=$(old "select coalesce(string_agg(said, '; '), '') from (
  select name || ' waits for a restart' as said from pg_settings where pending_restart
  union all select concat(sourcefile, ' line ', sourceline, ': ', name, ': ', error)
    from pg_file_settings where error is not null
  union all select name || ' is set' from pg_settings where name like 'recovery\\_target%' and setting <> ''
    and name not in ('recovery_target_timeline', 'recovery_target_action', 'recovery_target_inclusive')
  union all select distinct file || ' was changed after it was read: reload it' from (
    select sourcefile from pg_file_settings union select current_setting('config_file')
    union select current_setting('data_directory') || '/postgresql.auto.conf') x (file)
    where (pg_stat_file(file, true)).modification > pg_conf_load_time()) y") || cannot_tell "psql gave no answer"
[ -z "$said" ] || no "started anew it would not be as it is: $said; restart it at a good time, or take that back"
yes "started anew it would be as it is"
"""


def _named(known: Known) -> str:
    """The server, and what starts it, know the directory by the path that will lead to the new place."""
    of = cluster(known)
    if others := other_names(of):
        return f"no 'its server names it '{word(others[0])}': say directory='{word(others[0])}\n"
    return f"yes 'its server names it '{word(of.directory)}\n"


_PLACES = """there() { # LINK OLD NEW NAME
  fit "$3"
  case $3/ in "$T"/*) no "$3 lies in $T";; esac
  [ "$1" != pg_wal ] || [ ! -L "$R/pg_wal" ] || [ "${3%/*}" != "${2%/*}" ] ||
    [ "$(stat -c %d -- "$parent")" = "$(stat -c %d -- "$2")" ] ||
    no "$2 is a mount point, and beside it is another filesystem: say wal=${2%/*}/… or wal=inside"
  echo "$4 goes from $2 to $3 ($mount)"
}
apart there
"""


def _elsewhere(known: Known) -> str:
    """Data that lies outside of the directory has a place to go to."""
    of = cluster(known)
    names = {str(each["name"]) for each in of.facts["tablespaces"]}
    if unknown := sorted(set(parse_mappings(known.parameters["tablespaces"])) - names):
        return f"no 'there is no tablespace '{word(', '.join(unknown))}\n"
    for each in of.facts["tablespaces"]:
        lies = str(each["location"])
        if not PATH.match(lies) or f"{lies}/".startswith((f"{of.real}/", f"{of.directory}/")):
            return (
                f"no 'the tablespace '{word(each['name'])}' lies in '{word(lies)}': move its tables out of it first'\n"
            )
    places = [each.goes for each in of.apart] + [of.target, of.work, of.kept]
    places += [str(each["location"]) for each in of.facts["tablespaces"]] + [str(of.facts["wal"])]
    for place in sorted({place for place in places if places.count(place) > 1}):
        return f"no 'two things would lie in '{word(place)}\n"
    said = "the WAL is inside" if WAL_LINK not in {each.link for each in of.apart} else ""
    said += "" if of.apart else ", and there are no tablespaces"
    return _FIT + _PLACES + f"yes {word(said.strip(', ') or 'each has its place')}\n"


_STARTED = """[ -n "$UNIT" ] || [ ! -d /run/systemd/system ] ||
  no "it was not started by systemd: start it through its unit first, so that it comes back after a reboot"
# Patroni, repmgrd or a supervisor would start the server again in the middle of the switch, or fail over.
main=0; [ -z "$UNIT" ] || main=$(systemctl show -p MainPID --value "$UNIT" 2>/dev/null)
{ read -r pid <"$R/postmaster.pid"; } 2>/dev/null || pid=
case ${main:-0} in 0|"$pid") ;; *)
  read -r name <"/proc/$main/comm"
  no "$UNIT runs ${name:-another program} (process $main), which runs the server and may start it again at any moment; \
move it by that program's own means, or let systemd run the server alone first";;
esac
yes "it is started by ${UNIT:-hand}"
"""


# systemd.exec(5), "Sandboxing": what a unit may not see or write. Met after the switch it would be met too late.
_SANDBOX = """[ -n "$UNIT" ] || yes "no unit confines it"
show() { systemctl show -p "$1" --value "$UNIT" 2>/dev/null; }
home=$(show ProtectHome) system=$(show ProtectSystem) tmp=$(show PrivateTmp) write=$(show ReadWritePaths)
closed="$(show ReadOnlyPaths) $(show InaccessiblePaths)"
seen() { # x x DIRECTORY
  case $3/ in
    /home/*|/root/*|/run/user/*) case $home in ''|no) ;; *) no "$UNIT has ProtectHome=$home: it cannot use $3";; esac;;
    /tmp/*|/var/tmp/*) [ "$tmp" != yes ] || no "$UNIT has PrivateTmp=yes: it sees no $3";;
    /usr/*|/boot/*|/efi/*|/etc/*) case $system in ''|no) ;; *) no "$UNIT has ProtectSystem=$system: it cannot write $3";; esac;;
  esac
  for each in $closed; do
    each=${each#-}; case $3/ in "$each"/*) no "$UNIT may not write below $each: ReadOnlyPaths, InaccessiblePaths";; esac
  done
  [ "$system" = strict ] || return 0
  for each in $write; do each=${each#-}; case $3/ in "${each%/}"/*) return 0;; esac; done
  no "$UNIT has ProtectSystem=strict: give it ReadWritePaths=$3 in a drop-in first"
}
seen x x "$T" && apart seen
yes "$UNIT may reach the new places"
"""  # noqa: E501
_TARGET_HAS_ROOM = f"""roomy() {{ # x x DIRECTORY
  where=${{3%/*}}/; set -- $(stat -f -c '%a %S' -- "$where"); free=$(($1 * $2))
  [ $free -ge {LEAST_FREE_BYTES} ] || no "$((free / 1000000)) MB are left on the filesystem of $where"
  echo "$((free / 1000000)) MB are left in $where"
}}
roomy x x "$T" && apart roomy
yes "there is room"
"""
_MENTIONED = """found=$(grep -rlsF -- "$P" /etc/cron* /var/spool/cron /etc/systemd/system /etc/logrotate.d 2>/dev/null |
  head -n 5)
yes "named in cron jobs, units and logrotate: ${found:-nowhere}; the old path stays valid"
"""

BEHIND = _BEHIND  # the shell functions `unlogged DIRECTORY` and `behind`
APART = _check("the target is fit, on another filesystem", _FIT + _APART)
FREE_PLACE = _check("the target's place is free", _FREE_PLACE)
LABELS = _check("nothing confines the server to the old path", lambda _: labels.check())
SANDBOX = _check("the unit may reach the new place", _SANDBOX)
MENTIONED = _check("what names the old path is known", _MENTIONED)
NO_MOUNT = _check("nothing is mounted in the old directory", _NO_MOUNT)
NOTHING_BEHIND = _check("nothing stays behind", _BEHIND + _NOTHING_LEFT_BEHIND)
ARCHIVER = _check("the archiver works", _ARCHIVER)
AS_CONFIGURED = _check("it runs as it is configured", _AS_CONFIGURED)
TARGET_HAS_ROOM = _check("the target has room", _TARGET_HAS_ROOM)

PRECHECKS = (
    _check("the programs are there", _TOOLS),
    _check("it can have a standby", _settings),
    NOTHING_BEHIND,
    _check("it is started by systemd, or by hand", _STARTED),
    _check("the server has the same name for its directory", _named),
    AS_CONFIGURED,
    NO_MOUNT,
    _check("nothing in it is a symlink", _NO_LINKS),
    APART,
    _check("what lies outside of the directory has its place", _elsewhere),
    FREE_PLACE,
    _check("the old path can lead there", lambda known: placing.fit(cluster(known), known.parameters["place_by"])),
    _check("there is room on both sides", _room),
    _check("no transaction is very old", lambda _: f"LONGEST={LONGEST_TRANSACTION_SECONDS}\n{_QUIET}"),
    ARCHIVER,
    LABELS,
    SANDBOX,
    MENTIONED,
)
