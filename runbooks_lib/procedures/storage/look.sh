# Functions that only read, for the survey and for the steps' checks. POSIX sh, LC_ALL=C; nothing here writes a byte.
PATH=$PATH:/usr/sbin:/sbin LVM_SUPPRESS_FD_WARNINGS=1
export PATH LVM_SUPPRESS_FD_WARNINGS

# The block device under a mount point; of mounts upon each other the one that is seen. btrfs shows SOURCE[/subvolume].
source_of() {
  s=$(findmnt -n -o SOURCE -M "$1" | tail -n 1) && [ -n "$s" ] || return 1
  printf '%s\n' "${s%%\[*}"
}

type_of() { findmnt -n -o FSTYPE -M "$1" | tail -n 1; }

# Bytes of the device that the filesystem uses, by its own superblock. (xfs_growfs -n grows nothing; xfs_info cannot take every name.)
fs_bytes() { # type device mountpoint
  case $1 in
  ext2 | ext3 | ext4) dumpe2fs -h "$2" 2>/dev/null | awk -F': *' '
    /^Block count:/ { b = $2 } /^Block size:/ { s = $2 } END { if (!b || !s) exit 1; printf "%.0f\n", b * s }' ;;
  xfs) xfs_growfs -n "$3" | awk '/^data / { gsub(/[a-z]+=/, "& "); for (i = 1; i < NF; i++) {
    if ($i == "bsize=") s = $(i + 1); if ($i == "blocks=") b = $(i + 1) } }
    END { if (!b || !s) exit 1; printf "%.0f\n", b * s }' ;;
  btrfs) btrfs filesystem show --raw "$3" | awk '$1 == "devid" { n++; for (i = 1; i < NF; i++) if ($i == "size") b = $(i + 1) }
    END { if (n != 1) exit 1; printf "%.0f\n", b }' ;;
  *) return 1 ;;
  esac
}

# Says why a device is not empty; says nothing, with status 0, when nothing speaks against it. A disk whose bytes are
# not zero holds something, whether blkid knows it or not (an archive, a raw database, an encrypted volume).
not_empty() { # device
  [ -b "$1" ] || { echo 'it is no block device'; return 1; }
  real=$(readlink -f "$1") name=${real##*/}
  [ "$(blockdev --getro "$1")" = 0 ] || { echo 'it is read-only'; return 1; }
  for each in "/sys/class/block/$name/holders"/* "/sys/class/block/$name"/*/partition; do
    [ ! -e "$each" ] || { echo "it is in use: ${each#/sys/class/block/}"; return 1; }
  done
  while read -r each rest; do [ "$each" != "$real" ] || { echo 'it is swap space'; return 1; }; done </proc/swaps
  [ -z "$(findmnt -n -o TARGET -S "$real")" ] || { echo 'it is mounted'; return 1; }
  said=$(blkid -p -o value -s TYPE "$1" 2>/dev/null)
  [ $? = 2 ] || { echo "it holds ${said:-something with a signature}"; return 1; }
  [ -z "$(wipefs -n "$1" 2>&1)" ] || { echo 'it holds a signature (wipefs -n)'; return 1; }
  blocks=$(($(blockdev --getsize64 "$1") / 65536)) at=1
  said=$({
    dd if="$1" bs=65536 count=256 2>/dev/null || echo unreadable
    while [ $at -le 24 ]; do
      dd if="$1" bs=65536 skip=$((at * (blocks - 1) / 24)) count=1 2>/dev/null || echo unreadable
      at=$((at + 1))
    done
  } | tr -d '\000' | head -c 1 | wc -c)
  [ "$said" -eq 0 ] || { echo 'it holds data of a kind that is not known'; return 1; }
}

# Bytes behind a partition that belong to no other: up to the next one, or the disk's end without GPT's copy (33 sectors).
behind_partition() { # kernel name
  here=$(readlink -f "/sys/class/block/$1") disk=${here%/*} && [ -e "$here/partition" ] || return 1
  read -r start <"$here/start" && read -r size <"$here/size" && read -r last <"$disk/size" || return 1
  end=$((start + size)) last=$((last - 34))
  for each in "$disk"/*/start; do
    read -r other <"$each"
    [ "$other" -lt "$end" ] || [ "$other" -gt "$last" ] || last=$other
  done
  [ "$last" -gt "$end" ] || last=$end
  printf '%s\n' $(((last - end) * 512))
}

# The directory of a database that a path lies in, or of its write-ahead log; status 1 when it lies in none. Where that
# cannot be told it says so, as if it did.
database_above() { # path
  up=$(readlink -f -- "$1" && echo x) || { echo 'a place that cannot be read'; return 0; }
  up=${up%?x}
  while [ -n "$up" ]; do
    up=${up%/*}
    for each in PG_VERSION archive_status ibdata1 aria_log_control; do
      [ ! -e "$up/$each" ] || { printf '%s\n' "$up"; return 0; }
    done
    case ${up##*/} in pg_wal | pg_xlog) printf '%s\n' "$up"; return 0 ;; esac
  done
  return 1
}

# The first of these files that a process holds open, as its place among them and the process: by device and inode, since
# it may have been opened through another mount, or in another namespace. `nothing` when no process could be looked at.
held_open() { # files
  find /proc/[0-9]*/fd -type l -exec stat -L -c '%d:%i %n' {} + 2>/dev/null |
    awk -v ids="$(stat -c '%d:%i' -- "$@" | tr '\n' ' ')" '
      BEGIN { n = split(ids, each, " "); for (i = 1; i <= n; i++) place[each[i]] = i }
      $1 in place { split($2, at, "/"); print place[$1], at[3]; exit } END { if (!NR) print "nothing" }'
}

# Whether two paths lie on one filesystem; of a path that is not there its nearest directory counts.
nearest() { near=$1; while [ ! -e "$near" ]; do near=${near%/*}; near=${near:-/}; done; }

# The server of a data directory, and psql to it as its owner (postmaster.pid: port and socket directory are the fourth
# and fifth line).
server() { # data directory
  port='' sockets=''
  { read -r _; read -r _; read -r _; read -r port; read -r sockets; } <"$1/postmaster.pid" &&
    owner=$(stat -c %U -- "$1/postmaster.pid") && [ -n "$port" ]
}
sql() {
  (cd / && timeout -s KILL 60 runuser -u "$owner" -- psql -X -q -A -t -w -v ON_ERROR_STOP=1 \
    -h "${sockets:-/var/run/postgresql}" -p "$port" -d postgres "$@")
}
# Whether the server that answers there has this data directory: a postmaster.pid that was left behind may name the port
# of another by now.
serves() { # data directory
  theirs=$(sql -c 'show data_directory') && [ "$theirs" -ef "$1" ]
}
# One JSON object: what the ways through PostgreSQL go by.
settings_of() { # data directory
  server "$1" && serves "$1" && sql -c "select json_build_object('max_wal', pg_size_bytes(current_setting('max_wal_size')),
    'segment', pg_size_bytes(current_setting('wal_segment_size')), 'command', current_setting('archive_command'),
    'written', (select setting from pg_file_settings where name = 'archive_command'
      and sourcefile not like '%/postgresql.auto.conf' order by seqno desc limit 1),
    'altered', (select setting from pg_file_settings where name = 'archive_command'
      and sourcefile like '%/postgresql.auto.conf' order by seqno desc limit 1))" | tr -d '\n'
  echo
}
