# Reads everything quick that needs no root, changes nothing, installs nothing. POSIX sh: dash, busybox ash, bash, mksh.
# stdin: line 1 is the nonce (lower-case hex) that stands in every marker, so that no name on this host can fake one;
#        line 2 is the pause in seconds before the second reading of the counters, 0 for one reading only.
# stdout: "@@NONCE begin 1", sections that open with "@@NONCE NAME", at last "@@NONCE end".
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
read -r N
read -r pause
case $N in
'' | *[!0-9a-f]*) echo "quick.sh: line 1 of stdin must be the nonce" >&2; exit 64 ;;
esac
case $pause in
'' | *[!0-9.]*) pause=0 ;;
esac
export N
exec 2>/dev/null </dev/null
# Other users can read a command line but not an environment: the nonce is in no argument.
mark() { printf '\n@@%s %s\n' "$N" "$1"; }
up=''
read -r up _ </proc/uptime
mark 'begin 1'

mark clock
printf 'uptime %s\n' "$up"
date '+date %s.%N'
page=''
{ read -r _; read -r _; read -r _ page _; } </proc/self/smaps
[ -n "$page" ] || page=$(($(getconf PAGESIZE) / 1024))
printf 'page_kib %s\n' "$page"

# ---- mounts: who is asked, and who behind a guard -------------------------------------------------------------------
# Pseudo file systems are left out, and containers' layers. autofs is never touched: a look would mount it.
# L may be asked at once. G is a network file system, of an unknown kind, or below one: the way to it leads through that one.
# One export mounted twice is asked once.
M=$(awk '
{ t = $0; sub(/^.* - /, "", t); split(t, a, " "); y = a[1] }
y == "proc" { if (/hidepid=/) print; next }
y ~ /^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl|fuse\.(lxcfs|gvfsd-fuse|portal|snapfuse)|hugetlbfs|mqueue|nsfs|pstore|ramfs|rpc_pipefs|securityfs|selinuxfs|smackfs|sysfs|tracefs)$/ { next }
y ~ /^(overlay|tmpfs|squashfs|fuse\.fuse-overlayfs)$/ && $5 ~ /^\/(proc|sys|dev|snap|run|var\/snap|var\/lib\/(docker|containers|kubelet|containerd)|home\/[^\/]*\/\.local\/share\/containers)\// { next }
n >= 1000 { cut++; next }
{
  print; id[++n] = $1; at[n] = $5; kind[n] = "L"
  if (y !~ /^(ext[234]|xfs|btrfs|zfs|tmpfs|vfat|msdos|exfat|f2fs|jfs|reiserfs|bcachefs|overlay|ubifs|jffs2|nilfs2|ntfs3|hfsplus|udf|ufs|iso9660|squashfs|erofs|minix)$/) {
    kind[n] = ($3 in seen) ? "D" : "G"; seen[$3] = 1; net[++m] = $5
  }
}
END {
  if (cut) print "left-out " cut
  print "="
  for (i = 1; i <= n; i++) {
    for (j = 1; j <= m && kind[i] == "L"; j++) if (index(at[i], net[j] "/") == 1) kind[i] = "G"
    print kind[i], id[i], at[i]
  }
}' /proc/self/mountinfo)
nl='
'
mark mountinfo
M=$nl$M
printf '%s\n' "${M%%"$nl=$nl"*}"
M=${M#*"$nl=$nl"}

tab='	'
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
# A probe holds no descriptor of ours and nobody waits for it: a process in D state cannot be killed. All run at once.
running='' unasked='' live=' ' stale='' probes=0
set -f
IFS=$nl
for line in $M; do
  case $line in G*) ;; *) continue ;; esac
  unset IFS
  line=${line#G } id=${line%% *}
  if [ "$probes" -ge 64 ]; then unasked="$unasked $id"; continue; fi
  probes=$((probes + 1))
  decode "${line#* }"
  stat -f "$name" >/dev/null 2>&1 </dev/null &
  running="$running $id:$!"
done
unset IFS
set +f

# ---- files: one awk for all of them ---------------------------------------------------------------------------------
# awk ends at the first file that it cannot open, hence [ -r ]; one that opens and cannot be read comes last (PSI without psi=1).
missing=''
# shellcheck disable=SC2016 # awk's dollars
reads='
FNR == 1 { printf "\n@@%s %s%s\n", ENVIRON["N"], p, FILENAME; v = FILENAME == "/proc/vmstat"; d = FILENAME ~ /^\/proc\/(diskstats|partitions)$/; s = FILENAME ~ /^\/proc\/(stat|net\/)/; f = FILENAME == "/etc/fstab" }
v && !/^(pgpg|pswp|pgfault|pgmajfault|oom_kill|allocstall|pgscan_(kswapd|direct)|pgsteal_(kswapd|direct))/ { next }
d && / (loop|ram|zram|fd|sr)[0-9]+( |$)/ { next }
s && /^intr / { print substr($0, 1, 40); next }
s && /^(softirq|MPTcpExt:|IcmpMsg:|Icmp:|UdpLite:) / { next }
s && /^ *(veth|cali|lxc|tap)[^ ]*:/ { next }
f && /^[ \t]*(#|$)/ { next }
{ print }'
read_files() {
  prefix=$1
  shift
  for f; do
    shift
    if [ -r "$f" ]; then set -- "$@" "$f"; elif [ -e "$f" ]; then missing="${missing}denied $f$nl"; else missing="${missing}absent $f$nl"; fi
  done
  awk "$reads" p="$prefix" "$@"
}
counters='/proc/uptime /proc/stat /proc/diskstats /proc/net/dev /proc/net/snmp /proc/net/netstat /proc/vmstat'
pressure='/proc/pressure/cpu /proc/pressure/memory /proc/pressure/io'
statics='/proc/loadavg /proc/meminfo /proc/swaps /proc/partitions /proc/net/sockstat /proc/net/sockstat6 /proc/sys/fs/file-nr
/proc/sys/kernel/random/boot_id /proc/sys/kernel/osrelease /proc/sys/kernel/hostname /proc/sys/kernel/dmesg_restrict
/etc/machine-id /etc/os-release /etc/fstab'
n=0
for d in /sys/block/*; do
  case $d in */loop* | */ram* | */zram* | */fd* | */sr* | */\*) continue ;; esac
  n=$((n + 1))
  [ "$n" -gt 64 ] && break
  for f in ro removable queue/rotational device/model dm/name dm/uuid; do [ -r "$d/$f" ] && statics="$statics $d/$f"; done
done
for f in /sys/fs/ext4/*/errors_count /sys/devices/system/edac/mc/mc*/[cu]e_count /proc/sys/net/netfilter/nf_conntrack_count \
  /proc/sys/net/netfilter/nf_conntrack_max /proc/sys/kernel/arch /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name; do
  [ -r "$f" ] && statics="$statics $f"
done
# shellcheck disable=SC2086 # lists of names without blanks
read_files '' $counters $statics $pressure
mark missing
printf '%s' "$missing"

mark block-tree
printf '%s\n' /sys/block/*/slaves/* /sys/block/*/*/partition

# Not by awk: to read the speed of an interface that is down is an error.
mark interfaces
for d in /sys/class/net/*; do
  i=${d##*/} o='' s='' u='' k=virtual
  case $i in lo | veth* | cali* | lxc* | tap* | \*) continue ;; esac
  [ -e "$d/device" ] && k=physical
  [ -e "$d/master" ] && k=member
  read -r o <"$d/operstate"
  read -r s <"$d/speed"
  read -r u <"$d/mtu"
  printf '%s %s %s %s %s\n' "$i" "${o:-?}" "${s:-?}" "${u:-?}" "$k"
done

# cat goes on when a process has gone meanwhile; awk would not.
processes() { cat /proc/[0-9]*/stat; }
up1=''
first=''
case $pause in
*[1-9]*)
  read -r up1 _ </proc/uptime
  first=$(processes)
  ;;
esac

# ---- file systems ---------------------------------------------------------------------------------------------------
mark probes
tries=0
while [ -n "$running" ]; do
  left=''
  for r in $running; do
    if kill -0 "${r#*:}"; then
      left="$left $r"
    elif wait "${r#*:}"; then
      live="$live${r%%:*} "
      printf '%s live\n' "${r%%:*}"
    else
      printf '%s error\n' "${r%%:*}"
    fi
  done
  running=$left
  [ -n "$running" ] || break
  if [ "$tries" -ge 20 ]; then
    for r in $running; do
      kill -9 "${r#*:}"
      stale=1
      printf '%s stale\n' "${r%%:*}"
    done
    break
  fi
  tries=$((tries + 1))
  sleep 0.1 || { sleep 1; tries=$((tries + 9)); }
done
for r in $unasked; do printf '%s unasked\n' "$r"; done

# The names become the arguments of one stat; its rows are told apart by that order, not by what a name holds.
ids=''
set --
set -f
IFS=$nl
for line in $M; do
  unset IFS
  kind=${line%% *} line=${line#* }
  id=${line%% *}
  case $kind in
  L) ;;
  G) case $live in *" $id "*) ;; *) continue ;; esac ;;
  *) continue ;;
  esac
  decode "${line#* }"
  set -- "$@" "$name"
  ids="$ids $id"
done
unset IFS
set +f
mark statfs-ids
printf '%s\n' "$ids"
if [ $# -gt 0 ]; then
  mark statfs
  stat -f -c '%S %b %f %a %c %d %n' "$@" || {
    mark df-kib
    df -P -k "$@"
    mark df-inodes
    df -P -i "$@"
  }
fi

# ---- systemd, kernel log --------------------------------------------------------------------------------------------
if [ -d /run/systemd/system ]; then
  mark units
  timeout -s KILL 3 systemctl list-units --failed --no-legend --plain --no-pager --full
  printf 'status %s\n' "$?"
fi
restrict=1
read -r restrict </proc/sys/kernel/dmesg_restrict
if [ "$restrict" = 0 ] || [ -r /proc/kmsg ]; then
  mark dmesg
  # -r keeps the level, in util-linux and in busybox. Levels 0-3 are errors; the killed process of an OOM is told at 3 or 6.
  dmesg -r | awk '
  { l = substr($0, 2); l = l + 0 } /^<[0-9]+>/ && (l % 8 <= 3 || /oom-kill|Out of memory|Killed process|I\/O error|emount.*read-only|EDAC|Hardware Error/) { r[n++ % 40] = $0 }
  END { for (i = (n > 40 ? n - 40 : 0); i < n; i++) print r[i % 40]; print "matched " n + 0, "lines " NR }'
fi

# ---- second reading -------------------------------------------------------------------------------------------------
case $pause in
*[1-9]*)
  sleep "$pause" || sleep 1
  # shellcheck disable=SC2086
  read_files '2:' $counters $pressure
  ;;
esac
up2=''
read -r up2 _ </proc/uptime
# Of all processes only the ten busiest, the ten largest, the blocked ones and the PostgreSQL servers leave the host. A name can hold
# anything but is 15 bytes: a record is whole when 22 fields follow its last ")".
T=$({ [ -n "$first" ] && printf '%s\n=\n' "$first"; processes; } | awk '
function top(k, v, x,  i) {
  if (v <= 0 || (n[k] == 10 && v <= val[k, 10])) return
  if (n[k] < 10) n[k]++
  for (i = n[k]; i > 1 && val[k, i - 1] < v; i--) { val[k, i] = val[k, i - 1]; row[k, i] = row[k, i - 1] }
  val[k, i] = v; row[k, i] = x
}
function flat(c,  q, m, i, o) {
  if (c !~ /[\\\n]/) return c
  m = length(c); o = ""
  for (i = 1; i <= m; i++) { q = substr(c, i, 1); o = o (q == "\n" ? "\\012" : q == "\\" ? "\\134" : q) }
  return o
}
$0 == "=" && b == "" { two = 1; total = threads = zombies = 0; next }
{
  b = (b == "") ? $0 : b "\n" $0
  t = b; sub(/^.*\) /, "", t)
  if (split(t, a, " ") < 22 || t !~ /^[A-Za-z] [-0-9 ]+$/) { if (length(b) > 2000) b = ""; next }
  i = index(b, " ("); pid = substr(b, 1, i - 1); cm = substr(b, i + 2, length(b) - length(t) - i - 3); b = ""
  total++; threads += a[18]; if (a[1] == "Z") zombies++
  c = a[12] + a[13]; key = pid " " a[20]
  if (FIRST && !two) { old[key] = c; next }
  d = FIRST ? c - ((key in old) ? old[key] : 0) : c
  x = d " " c " " a[22] " " pid " " a[2] " " a[1] " " a[18] " " a[20] " " a[10] " " a[40] + 0 " "
  if (cm ~ /^(postgres|postmaster)$/) { pg[pid] = a[2] }
  x = x flat(cm)
  top("cpu", d, x); top("rss", a[22], x)
  if (a[1] == "D" && nd++ < 50) blocked[nd] = x
}
END {
  print "counts", total + 0, threads + 0, zombies + 0, nd + 0
  for (i = 1; i <= n["cpu"]; i++) print "cpu", row["cpu", i]
  for (i = 1; i <= n["rss"]; i++) print "rss", row["rss", i]
  for (i = 1; i <= nd && i <= 50; i++) print "blocked", blocked[i]
  for (k in pg) if (!(pg[k] in pg)) print "postgres", k
}' FIRST="${first:+1}")
mark processes
printf 'uptime %s %s\n%s\n' "${up1:-?}" "$up2" "$T"

# ---- PostgreSQL: what its command line says -------------------------------------------------------------------------
mark postgres
pids=''
case $T in *"${nl}postgres "*)
  pids=${T#*"${nl}postgres "}
  printf '%s\n' "postgres $pids"
  ;;
esac
set -f
n=0
for pid in $pids; do
  [ "$pid" = postgres ] && continue
  n=$((n + 1))
  [ "$n" -gt 8 ] && break
  mark "postgres-$pid"
  # A command line can hang on a stuck process's memory lock.
  c=$(timeout -s KILL 1 cat "/proc/$pid/cmdline" | tr '\0' '\n')
  printf '%s\n' "$c"
  while read -r line; do
    case $line in *docker* | *kubepods* | *libpod* | *containerd* | *lxc* | *machine.slice*) mark "postgres-contained-$pid"; continue 2 ;; esac
  done <"/proc/$pid/cgroup"
  [ -z "$stale" ] || continue # the way to the directory could hang as well
  data='' take=''
  IFS=$nl
  for word in $c; do
    if [ -n "$take" ]; then data=$word take=''; continue; fi
    case $word in
    -D) take=1 ;;
    -D?*) data=${word#-D} ;;
    data_directory=* | --data_directory=* | --data-directory=*) data=${word#*=} ;;
    esac
  done
  unset IFS
  case $data in
  /*)
    mark "postgres-data-$pid"
    readlink -f "$data"
    if [ -x "$data" ]; then mark "postgres-wal-$pid"; readlink -f "$data/pg_wal"; fi
    if [ -r "$data/PG_VERSION" ]; then mark "postgres-version-$pid"; cat "$data/PG_VERSION"; fi
    ;;
  esac
done
set +f
mark clock-end
read -r up _ </proc/uptime
printf 'uptime %s\n' "$up"
mark end
