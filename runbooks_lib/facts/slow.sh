# Reads what is slow or needs root, each part only when asked for; changes nothing, installs nothing. POSIX sh.
# stdin: line 1 the nonce (lower-case hex); then any of
#   ask lvm | deleted-files | process-io | kernel-log | postgres | postgres-activity
#   ask waiting | connections | journal-use | boots                   ask directories: needs the next two
#   mount NAME      the mount point to walk, escaped as in /proc/self/mountinfo
#   seconds N       how long the walk may last
# and at last a line "go". stdout: as quick.sh.
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
LVM_SUPPRESS_FD_WARNINGS=1
export LC_ALL PATH LVM_SUPPRESS_FD_WARNINGS
read -r N
case $N in
'' | *[!0-9a-f]*) echo "slow.sh: line 1 of stdin must be the nonce" >&2; exit 64 ;;
esac
asked=' ' mount='' seconds=20
while read -r word value; do
  case $word in
  ask) asked="$asked$value " ;;
  mount) mount=$value ;;
  seconds) seconds=$value ;;
  go) break ;;
  esac
done
case $seconds in '' | *[!0-9]*) seconds=20 ;; esac
export N
exec 2>/dev/null </dev/null
cd / || exit 1
mark() { printf '\n@@%s %s\n' "$N" "$1"; }
wanted() { case $asked in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
nl='
'
tab='	'
uid=$(id -u)
missing=''
mark 'begin 1'
mark uid
printf '%s\n' "$uid"

# The kernel writes a space, tab, newline, backslash or # in a name as three octal digits. printf %b takes \0401 for one character.
decode() {
  name=''
  while :; do
    case $1 in *\\*) ;; *) name=$name$1; return ;; esac
    name=$name${1%%\\*}
    set -- "${1#*\\}"
    case $1 in
    040*) name="$name " ;;
    011*) name=$name$tab ;;
    012*) name=$name$nl ;;
    134*) name=$name\\ ;;
    043*) name="$name#" ;;
    *) name=$name\\; continue ;;
    esac
    set -- "${1#???}"
  done
}
# True when statfs answers within two seconds. Nobody waits for the probe: a process in D state cannot be killed.
answers() {
  stat -f "$1" >/dev/null 2>&1 </dev/null &
  probe=$!
  tries=0
  while kill -0 "$probe"; do
    [ "$tries" -ge 20 ] && { kill -9 "$probe"; return 1; }
    tries=$((tries + 1))
    sleep 0.1 || { sleep 1; tries=$((tries + 9)); }
  done
  return 0
}

# RHEL 7's journalctl (systemd 219) is older than short-unix: systemd issue 2120. Both have time, host and writer first.
stamps=''
choose_stamps() {
  [ -z "$stamps" ] || return 0
  stamps=short-unix
  timeout -s KILL 5 journalctl -q -n 0 -o short-unix --no-pager >/dev/null || stamps=short-iso
}

if wanted lvm; then
  if ! command -v lvs >/dev/null; then
    missing="${missing}absent lvm$nl"
  elif [ "$uid" != 0 ]; then
    missing="${missing}denied lvm$nl"
  else
    mark pvs
    timeout -s KILL 20 pvs --reportformat json --units b --nosuffix -o pv_name,vg_name,pv_size,pv_free,pv_missing
    a=$?
    mark vgs
    timeout -s KILL 20 vgs --reportformat json --units b --nosuffix -o vg_name,vg_size,vg_free,vg_extent_size,vg_extent_count,vg_free_count,vg_missing_pv_count
    b=$?
    mark lvs
    timeout -s KILL 20 lvs -a --reportformat json --units b --nosuffix -o lv_name,vg_name,segtype,lv_attr,lv_size,pool_lv,origin,data_percent,metadata_percent,lv_metadata_size,lv_path
    mark lvm-status
    printf '%s %s %s\n' "$a" "$b" "$?"
  fi
fi

if wanted deleted-files; then
  # Candidates by their links' text; that they are deleted is then read from the link count. busybox find has no -lname.
  if find /proc/self/fd -prune -lname x >/dev/null; then
    fds=$(timeout -s KILL 20 find /proc/[0-9]*/fd -lname '/*(deleted)' ! -lname '/memfd:*' ! -lname '/SYSV*')
  else
    fds=$(timeout -s KILL 20 ls -l /proc/[0-9]*/fd | awk '
      /^\/proc\/[0-9]+\/fd:$/ { d = substr($0, 1, length($0) - 1); next }
      /^l[rwx-]+/ { i = index($0, " -> "); if (i) { t = substr($0, 1, i - 1); n = split(t, a, " "); f = d "/" a[n] } }
      / \(deleted\)$/ && !/ -> \/(memfd:|SYSV)/ { print f }')
  fi
  mark deleted-stat
  rows=$(printf '%s\n' "$fds" | timeout -s KILL 10 xargs stat -L -c '%n %h %s %b %B %D %i' | sort -k4,4rn | head -n 60)
  printf '%s\n' "$rows"
  pids=' '
  for f in $(printf '%s\n' "$rows" | awk '{ print $1 }'); do
    mark "name $f"
    readlink "$f"
    f=${f#/proc/}
    case $pids in *" ${f%%/*} "*) ;; *) pids="$pids${f%%/*} " ;; esac
  done
  for f in $pids; do mark "comm $f"; cat "/proc/$f/comm"; done
fi

if wanted process-io; then
  io() { grep -sE '^(read|write)_bytes:' /proc/[0-9]*/io; }
  read -r up1 _ </proc/uptime
  first=$(io)
  sleep 1
  read -r up2 _ </proc/uptime
  if [ -z "$first" ] && [ ! -e /proc/self/io ]; then
    missing="${missing}absent process-io$nl"
  else
    rows=$({ printf '%s\n=\n' "$first"; io; } | awk '
      function top(v, x,  i) {
        if (v <= 0 || (n == 20 && v <= val[20])) return
        if (n < 20) n++
        for (i = n; i > 1 && val[i - 1] < v; i--) { val[i] = val[i - 1]; row[i] = row[i - 1] }
        val[i] = v; row[i] = x
      }
      $0 == "=" { two = 1; next }
      { split($0, p, "/"); k = split($0, a, " "); w = p[4] ~ /^io:write/ }
      !two { old[p[3], w] = a[k]; next }
      w { if ((p[3], 0) in old) { r = now[p[3]] - old[p[3], 0]; s = a[k] - old[p[3], 1]; if (r >= 0 && s >= 0) top(r + s, sprintf("%s %.0f %.0f %s %s", p[3], r, s, now[p[3]], a[k])) } next }
      { now[p[3]] = a[k] }
      END { for (i = 1; i <= n; i++) print row[i] }')
    mark process-io
    printf 'uptime %s %s\n%s\n' "$up1" "$up2" "$rows"
    for f in $(printf '%s\n' "$rows" | awk '{ print $1 }'); do mark "io-comm $f"; cat "/proc/$f/comm"; done
  fi
fi

if wanted kernel-log; then
  restrict=1
  read -r restrict </proc/sys/kernel/dmesg_restrict
  if [ "$restrict" = 0 ] || [ "$uid" = 0 ]; then
    mark dmesg
    timeout -s KILL 5 dmesg -r | awk '
    { l = substr($0, 2); l = l + 0 } /^<[0-9]+>/ && (l % 8 <= 3 || /oom-kill|Out of memory|Killed process|I\/O error|emount.*read-only|EDAC|Hardware Error/) { r[n++ % 40] = $0 }
    END { for (i = (n > 40 ? n - 40 : 0); i < n; i++) print r[i % 40]; print "matched " n + 0, "lines " NR }'
  else
    missing="${missing}denied kernel-log$nl"
  fi
  groups=" $(id -Gn) "
  if ! command -v journalctl >/dev/null || ! [ -S /run/systemd/journal/socket ]; then
    missing="${missing}absent journal$nl"
  else
    case "$uid $groups" in
    '0 '* | *' adm '* | *' systemd-journal '* | *' wheel '*)
      choose_stamps
      mark journal
      timeout -s KILL 10 journalctl -k -p 3 -n 50 -o "$stamps" --no-pager -q
      printf 'status %s\n' "$?"
      ;;
    *) missing="${missing}denied journal$nl" ;;
    esac
  fi
fi

if wanted directories; then
  decode "$mount"
  if ! answers "$name"; then # before any look of our own, which would hang
    missing="${missing}stale directories$nl"
  elif [ ! -d "$name" ]; then
    missing="${missing}absent directories$nl"
  else
    lower='' first=''
    # At the lowest priority a busy host lets it never begin: a walk of seconds is to get somewhere.
    if [ "$seconds" -le 15 ]; then
      command -v nice >/dev/null && lower='nice -n 5'
    else
      command -v nice >/dev/null && lower='nice -n 19'
      command -v ionice >/dev/null && lower="$lower ionice -c 3"
      first=$lower
    fi
    zero=''
    du -0 -s /dev/null >/dev/null && zero=0
    # Newlines inside names become \001 where du can end its rows with NUL; only the largest rows leave the host.
    largest() {
      if [ -n "$zero" ]; then tr '\n\0' '\001\n'; else cat; fi | awk -v m="$1" '
      { v = $0 + 0; if (n == m && v <= val[m]) next; if (n < m) n++
        for (i = n; i > 1 && val[i - 1] < v; i--) { val[i] = val[i - 1]; row[i] = row[i - 1] }
        val[i] = v; row[i] = $0 }
      END { for (i = 1; i <= n; i++) print row[i] }'
    }
    # A busy disk may not let the walk get far before its time is over. What fills a disk is often one file, high up in
    # the tree: those of at least a fiftieth of what is used, and so fifty at most but for sparse ones, are asked first,
    # level by level, since each look that is not in memory waits for the disk.
    mark large-files
    read -r up _ </proc/uptime
    began=${up%%.*}
    kib=$(df -P -k "$name" | awk 'NR == 2 { printf "%d", $3 / 50 }')
    [ "${kib:-0}" -ge 1024 ] || kib=1024
    # Where rows cannot end with NUL, the second line of a name could pass for a row: such a file is left out.
    if [ -n "$zero" ]; then set --; else set -- ! -path "*$nl*"; fi
    part=$(((seconds + 1) / 2))
    # shellcheck disable=SC2086
    for level in 1 2 3; do
      read -r up _ </proc/uptime
      left=$((part - ${up%%.*} + began))
      [ "$left" -ge 1 ] || [ "$level" = 1 ] || break
      timeout -s KILL "$((left > 0 ? left : 1))" $first find "$name" -xdev -mindepth "$level" -maxdepth "$level" \
        -type f "$@" -size "+${kib}k" -exec du -k$zero {} \;
    done | largest 20
    read -r up _ </proc/uptime
    seconds=$((seconds - ${up%%.*} + began))
    [ "$seconds" -ge 1 ] || seconds=1
    mark directories
    # shellcheck disable=SC2086
    { { timeout -s KILL "$seconds" $lower du -xk$zero -d 2 "$name"; printf 'status %s\n' "$?" >&3; } | largest 60; } 3>&1
  fi
fi

# Threads in uninterruptible sleep, looked for five times: a sleep of this kind is short unless something blocks. What the
# kernel function is called that they sleep in (wchan) is told to root and to their owner.
if wanted waiting; then
  mark waiting
  n=0
  while [ "$n" -lt 5 ]; do
    if [ "$n" != 0 ]; then sleep 0.3 || sleep 1; fi
    n=$((n + 1))
    read -r up _ </proc/uptime
    printf 'sample %s\n' "$up"
    found=0
    grep -s '[)] D ' /proc/[0-9]*/task/[0-9]*/stat | while IFS= read -r line; do
      found=$((found + 1))
      [ "$found" -le 60 ] || break
      f=${line%%/stat:*} place='' unit='' name=''
      case $f in /proc/[0-9]*/task/[0-9]*) ;; *) continue ;; esac
      read -r place <"$f/wchan"
      while read -r line; do case $line in 0::* | *:name=systemd:*) unit=${line##*:} ;; esac; done <"$f/cgroup"
      read -r name <"$f/comm"
      printf 'task %s %s\nunit %s\nname %s\n' "$f" "${place:-?}" "$unit" "$name"
    done
  done
fi

if wanted connections; then
  if ! command -v ss >/dev/null; then
    missing="${missing}absent connections$nl"
  else
    mark connections
    timeout -s KILL 5 ss -tinH state established | head -n 800
    mark routes
    cat /proc/net/route
  fi
fi

if wanted journal-use || wanted boots; then
  groups=" $(id -Gn) "
  journal=''
  if ! command -v journalctl >/dev/null || ! [ -S /run/systemd/journal/socket ]; then
    journal=absent
  else
    case "$uid $groups" in
    '0 '* | *' adm '* | *' systemd-journal '* | *' wheel '*) ;;
    *) journal=denied ;;
    esac
  fi
  if [ -n "$journal" ]; then missing="$missing$journal journal-use$nl$journal boots$nl"; else choose_stamps; fi
  # How much the journal holds and may hold, how far back it reaches, and who wrote its last 2,000 lines.
  if wanted journal-use && [ -z "$journal" ]; then
    mark journal-use
    place=/run/log/journal
    [ -d /var/log/journal ] && place=/var/log/journal
    printf 'place %s\n' "$place"
    timeout -s KILL 5 du -sk "$place" | awk '{ print "kib", $1 }'
    df -P -k "$place" | awk 'NR == 2 { print "size_kib", $2 }'
    cat /usr/lib/systemd/journald.conf.d/*.conf /etc/systemd/journald.conf /run/systemd/journald.conf.d/*.conf \
      /etc/systemd/journald.conf.d/*.conf | sed -n 's/^ *\(SystemMaxUse\|RuntimeMaxUse\) *= *\([0-9]*[KMGTE]\{0,1\}\) *$/\1 \2/p'
    timeout -s KILL 5 journalctl -q -o "$stamps" --no-pager | head -n 1 | awk '{ print "oldest", $1 }'
    date '+now %s'
    timeout -s KILL 5 journalctl -q -n 2000 -o "$stamps" --no-pager | awk '
    { i = $3; sub(/:$/, "", i); sub(/\[[0-9]+\]$/, "", i); if (i == "") next; b[i] += length($0); n[i]++ }
    END { for (i in b) print "writer", b[i], n[i], i }' | sort -k2,2rn | head -n 5
  fi
  # How the boot before this one ended, and what the file systems said of it; of a boot of the last hours only.
  read -r up _ </proc/uptime
  if wanted boots && [ -z "$journal" ] && [ "${up%%.*}" -lt 14400 ]; then
    mark boots
    ended=$(timeout -s KILL 5 journalctl -q -b -1 -n 12 -o "$stamps" --no-pager)
    a=$?
    printf '%s\nstatus %s\n' "$ended" "$a"
    mark recovery
    case $ended in
    *'Journal stopped'* | '') ;;
    *)
      timeout -s KILL 5 journalctl -q -b 0 -k -o cat -n 3000 --no-pager |
        grep -iE 'recovery (complete|required)|orphan cleanup|(starting|ending) recovery|replaying log|not properly unmounted' | head -n 20
      ;;
    esac
  elif wanted boots && [ -z "$journal" ]; then
    missing="${missing}long-ago boots$nl"
  fi
fi

settings_sql() {
  cat <<'SQL'
SET application_name = 'runbook triage';
SET statement_timeout = '3s';
SET lock_timeout = '500ms';
SET default_transaction_read_only = on;
SQL
}
# What stands in quotes is cut out of the statements before they leave the server: it may be anybody's secret.
sample_sql() {
  cat <<'SQL'
WITH a AS (
  SELECT *, CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid) ELSE '{}'::int[] END AS blocked_by
  FROM pg_stat_activity WHERE pid <> pg_backend_pid()
), s AS (
  SELECT pid, coalesce(datname, '') AS database, coalesce(usename, '') AS role, left(application_name, 60) AS application,
    coalesce(host(client_addr), '') AS client, coalesce(state, '') AS state, backend_type AS kind,
    coalesce(wait_event_type, '') AS wait_type, coalesce(wait_event, '') AS wait, blocked_by,
    round(extract(epoch FROM clock_timestamp() - xact_start)::numeric, 3) AS transaction_seconds,
    round(extract(epoch FROM clock_timestamp() - query_start)::numeric, 3) AS query_seconds,
    round(extract(epoch FROM clock_timestamp() - state_change)::numeric, 3) AS state_seconds,
    left(regexp_replace(regexp_replace(query, '''[^'']*(''|$)', '''?''', 'g'), '\s+', ' ', 'g'), 160) AS statement
  FROM a
  WHERE state <> 'idle' OR (backend_type <> 'client backend' AND coalesce(wait_event_type, '') <> 'Activity')
    OR pid IN (SELECT unnest(blocked_by) FROM a)
  ORDER BY cardinality(blocked_by) DESC, xact_start NULLS LAST LIMIT 150
)
SELECT json_build_object('sample', json_build_object('at', extract(epoch FROM clock_timestamp()),
  'commits', sum(xact_commit), 'rollbacks', sum(xact_rollback), 'temp_bytes', sum(temp_bytes), 'deadlocks', sum(deadlocks),
  'clients', (SELECT count(*) FROM a WHERE backend_type = 'client backend'),
  'sessions', (SELECT coalesce(json_agg(s), '[]'::json) FROM s)))::jsonb FROM pg_stat_database;
SQL
}
activity_sql() {
  settings_sql
  sample_sql
  cat <<'SQL'
SELECT json_build_object('limits', json_build_object('max_connections', current_setting('max_connections')::int,
  'reserved', current_setting('superuser_reserved_connections')::int, 'in_recovery', pg_is_in_recovery(),
  'synchronous_standbys', current_setting('synchronous_standby_names'),
  'standbys', (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
  'xid_age', (SELECT max(age(datfrozenxid)) FROM pg_database), 'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  'prepared_seconds', (SELECT round(extract(epoch FROM now() - min(prepared))::numeric) FROM pg_prepared_xacts)))::jsonb;
SELECT pg_sleep(0.7);
SQL
  sample_sql
  cat <<'SQL'
SELECT json_build_object('temporary', (SELECT coalesce(json_agg(f), '[]'::json) FROM (
  SELECT substring(name FROM '^pgsql_tmp([0-9]+)')::int AS pid, count(*) AS files, sum(size)::bigint AS bytes
  FROM pg_tablespace t, LATERAL pg_ls_tmpdir(t.oid) WHERE t.spcname <> 'pg_global' GROUP BY 1 ORDER BY 3 DESC LIMIT 20) f))::jsonb;
SELECT pg_sleep(0.7);
SQL
  sample_sql
}

if wanted postgres || wanted postgres-activity; then
  all=' ' servers='' here=''
  for p in /proc/[0-9]*; do
    read -r c <"$p/comm" || continue
    case $c in postgres | postmaster) all="$all${p#/proc/} " ;; esac
  done
  for p in $all; do
    read -r line <"/proc/$p/stat" || continue
    line=${line##*) } line=${line#* }
    case $all in *" ${line%% *} "*) ;; *) servers="$servers $p" ;; esac
  done
  [ -n "$servers" ] || missing="${missing}absent postgres$nl"
  own=$(readlink /proc/self/ns/mnt)
  for p in $servers; do
    data=$(readlink "/proc/$p/cwd")
    if [ -z "$data" ]; then
      missing="${missing}denied postgres-$p$nl"
      continue
    fi
    mark "postgres $p"
    [ "$(readlink "/proc/$p/ns/mnt")" = "$own" ] || { printf 'contained\n'; continue; }
    answers "$data" || { printf 'stale\n'; continue; }
    printf 'here\n'
    here="$here $p"
    mark "postgres-data $p"
    printf '%s\n' "$data"
    mark "postgres-wal $p"
    readlink -f "$data/pg_wal"
    port='' sockets=''
    { read -r _; read -r _; read -r _; read -r port; read -r sockets; } <"$data/postmaster.pid"
    owner=$(stat -c %U "/proc/$p")
    if ! command -v psql >/dev/null; then
      mark "psql-status $p"
      printf 'absent\n'
      mark "activity-status $p"
      printf 'absent\n'
      continue
    fi
    case $uid in
    0) if command -v runuser >/dev/null; then as="runuser -u $owner --"; else as="sudo -n -u $owner"; fi ;;
    *) if [ "$(id -un)" = "$owner" ]; then as=''; else as="sudo -n -u $owner"; fi ;;
    esac
    if wanted postgres; then
      mark "psql $p"
      # shellcheck disable=SC2086 # a command and its arguments
      timeout -s KILL 30 $as psql -X -q -A -t -w -h "${sockets:-/var/run/postgresql}" -p "${port:-5432}" -d postgres <<'SQL'
SET statement_timeout = '5s';
SET lock_timeout = '1s';
SET default_transaction_read_only = on;
SELECT json_build_object('server', json_build_object('version', current_setting('server_version'), 'version_number', current_setting('server_version_num')::int, 'data_directory', current_setting('data_directory'), 'in_recovery', pg_is_in_recovery(), 'started', extract(epoch FROM pg_postmaster_start_time())::bigint, 'archive_mode', current_setting('archive_mode'), 'wal_level', current_setting('wal_level'), 'max_connections', current_setting('max_connections')::int, 'connections', (SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL)));
SELECT json_build_object('wal', (SELECT json_build_object('files', count(*), 'bytes', coalesce(sum(size), 0)::bigint) FROM pg_ls_waldir()));
SELECT json_build_object('archiver', (SELECT json_build_object('archived', archived_count, 'failed', failed_count, 'last_archived', extract(epoch FROM last_archived_time)::bigint, 'last_failed', extract(epoch FROM last_failed_time)::bigint, 'last_failed_wal', last_failed_wal) FROM pg_stat_archiver));
SELECT json_build_object('ready', (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'));
SELECT json_build_object('slots', coalesce((SELECT json_agg(json_build_object('name', slot_name, 'type', slot_type, 'active', active, 'retained_bytes', pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END, restart_lsn)::bigint, 'row', row_to_json(s))) FROM pg_replication_slots s), '[]'::json));
SELECT json_build_object('tablespaces', coalesce((SELECT json_agg(json_build_object('name', spcname, 'location', pg_tablespace_location(oid))) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''), '[]'::json));
SELECT json_build_object('databases', (SELECT json_agg(json_build_object('name', datname, 'bytes', pg_database_size(oid))) FROM pg_database WHERE datallowconn));
SQL
      a=$?
      mark "psql-status $p"
      printf 'status %s\n' "$a"
    fi
    if wanted postgres-activity; then
      mark "activity $p"
      # shellcheck disable=SC2086
      activity_sql | timeout -s KILL 20 $as psql -X -q -A -t -w -h "${sockets:-/var/run/postgresql}" -p "${port:-5432}" -d postgres 2>&1
      a=$?
      mark "activity-status $p"
      printf 'status %s\n' "$a"
    fi
  done
fi
mark missing
printf '%s' "$missing"
mark end
