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

nl='
'
# ---- one awk for all that is looked at together: a process of its own costs a host more than what it reads ------------
# Pseudo file systems are left out, and containers' layers. autofs is never touched: a look would mount it.
# L may be asked at once. G is a network file system, of an unknown kind, or below one: the way to it leads through that one.
# One export mounted twice is asked once.
# Of all processes only the ten busiest, the ten largest, the blocked ones and the PostgreSQL servers leave the host. A name can hold
# anything but is 15 bytes: a record is whole when 22 fields follow its last ")". stdin: the processes, before them in the second
# reading what the first one saw of each. What only this shell needs comes first and last, each behind a line of its own.
# shellcheck disable=SC2016 # awk's dollars
look='
function mark(name) { printf "\n@@%s %s\n", N, name }
function mounts(  f, line, t, y, w, a, n, m, i, j, cut, id, at, kind, seen, net, rows) {
  f = "/proc/self/mountinfo"
  while ((getline line < f) > 0) {
    t = line; sub(/^.* - /, "", t); split(t, a, " "); y = a[1]; split(line, w, / /)
    if (y == "proc") { if (line ~ /hidepid=/) rows = rows line "\n"; continue }
    if (y ~ /^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl|fuse\.(lxcfs|gvfsd-fuse|portal|snapfuse)|hugetlbfs|mqueue|nsfs|pstore|ramfs|rpc_pipefs|securityfs|selinuxfs|smackfs|sysfs|tracefs)$/) continue
    if (y ~ /^(overlay|tmpfs|squashfs|fuse\.fuse-overlayfs)$/ && w[5] ~ /^\/(proc|sys|dev|snap|run|var\/snap|var\/lib\/(docker|containers|kubelet|containerd)|home\/[^\/]*\/\.local\/share\/containers)\//) continue
    if (n >= 1000) { cut++; continue }
    rows = rows line "\n"; id[++n] = w[1]; at[n] = w[5]; kind[n] = "L"
    if (y !~ /^(ext[234]|xfs|btrfs|zfs|tmpfs|vfat|msdos|exfat|f2fs|jfs|reiserfs|bcachefs|overlay|ubifs|jffs2|nilfs2|ntfs3|hfsplus|udf|ufs|iso9660|squashfs|erofs|minix)$/) {
      kind[n] = (w[3] in seen) ? "D" : "G"; seen[w[3]] = 1; net[++m] = w[5]
    }
  }
  close(f)
  for (i = 1; i <= n; i++) {
    for (j = 1; j <= m && kind[i] == "L"; j++) if (index(at[i], net[j] "/") == 1) kind[i] = "G"
    print kind[i], id[i], at[i]
  }
  print "="
  mark("mountinfo")
  printf "%s", rows
  if (cut) print "left-out " cut
}
function file(f,  line, n, v, d, s, t) {
  v = f == "/proc/vmstat"; d = f ~ /^\/proc\/(diskstats|partitions)$/; s = f ~ /^\/proc\/(stat|net\/)/; t = f == "/etc/fstab"
  while ((getline line < f) > 0) {
    if (n++ == 0) mark(P f)
    if (f == "/proc/uptime") UP = line
    if (v && line !~ /^(pgpg|pswp|pgfault|pgmajfault|oom_kill|allocstall|pgscan_(kswapd|direct)|pgsteal_(kswapd|direct))/) continue
    if (d && line ~ / (loop|ram|zram|fd|sr)[0-9]+( |$)/) continue
    if (s && line ~ /^intr /) line = substr(line, 1, 40)
    if (s && line ~ /^(softirq|MPTcpExt:|IcmpMsg:|Icmp:|UdpLite:) /) continue
    if (s && line ~ /^ *(veth|cali|lxc|tap)[^ ]*:/) continue
    if (t && line ~ /^[ \t]*(#|$)/) continue
    print line
  }
  close(f)
}
function kernel_log(  line, l, r, n, i, all) {
  mark("dmesg")
  # -r keeps the level, in util-linux and in busybox. Levels 0-3 are errors; the killed process of an OOM is told at 3 or 6.
  while (("dmesg -r" | getline line) > 0) {
    all++; l = substr(line, 2) + 0
    if (line ~ /^<[0-9]+>/ && (l % 8 <= 3 || line ~ /oom-kill|Out of memory|Killed process|I\/O error|emount.*read-only|EDAC|Hardware Error/)) r[n++ % 40] = line
  }
  for (i = (n > 40 ? n - 40 : 0); i < n; i++) print r[i % 40]
  print "matched " n + 0, "lines " all + 0
}
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
BEGIN {
  N = ENVIRON["N"]; reading = ARGV[1]; P = (reading == "second") ? "2:" : ""; UP = before = "?"
  if (reading != "second") mounts()
  for (k = 2; k < ARGC; k++) if (ARGV[k] == "dmesg") logs = 1; else file(ARGV[k])
  split(UP, up, " "); ARGC = 1
}
reading == "second" && !two {
  if ($0 == "=") two = 1; else if ($1 == "uptime") before = $2; else old[$1 " " $2] = $3
  next
}
{
  b = (b == "") ? $0 : b "\n" $0
  t = b; sub(/^.*\) /, "", t)
  if (split(t, a, " ") < 22 || t !~ /^[A-Za-z] [-0-9 ]+$/) { if (length(b) > 2000) b = ""; next }
  i = index(b, " ("); pid = substr(b, 1, i - 1); cm = substr(b, i + 2, length(b) - length(t) - i - 3); b = ""
  c = a[12] + a[13]; key = pid " " a[20]
  if (reading == "first") { saw[key] = c; next }
  total++; threads += a[18]; if (a[1] == "Z") zombies++
  d = (key in old) ? c - old[key] : c
  x = d " " c " " a[22] " " pid " " a[2] " " a[1] " " a[18] " " a[20] " " a[10] " " a[40] + 0 " "
  if (cm ~ /^(postgres|postmaster)$/) { pg[pid] = a[2] }
  x = x flat(cm)
  top("cpu", d, x); top("rss", a[22], x)
  if (a[1] == "D" && nd++ < 50) blocked[nd] = x
}
END {
  if (reading != "first") {
    mark("processes")
    print "uptime", before, up[1]
    print "counts", total + 0, threads + 0, zombies + 0, nd + 0
    for (i = 1; i <= n["cpu"]; i++) print "cpu", row["cpu", i]
    for (i = 1; i <= n["rss"]; i++) print "rss", row["rss", i]
    for (i = 1; i <= nd && i <= 50; i++) print "blocked", blocked[i]
  }
  if (logs) kernel_log()
  mark("=")
  if (reading == "first") { print "uptime", up[1]; for (key in saw) print key, saw[key] }
  else for (k in pg) if (!(pg[k] in pg)) print "postgres", k
}'
# cat goes on when a process has gone meanwhile; awk would not.
processes() { cat /proc/[0-9]*/stat; }
# A stall file that opens and cannot be read (a kernel booted without psi=1) would end awk.
stalls() {
  for f in cpu memory io; do
    {
      read -r line || continue
      mark "$1/proc/pressure/$f"
      printf '%s\n' "$line"
      while read -r line; do printf '%s\n' "$line"; done
    } <"/proc/pressure/$f"
  done
}
counters='/proc/uptime /proc/stat /proc/diskstats /proc/net/dev /proc/net/snmp /proc/net/netstat /proc/vmstat'
statics='/proc/loadavg /proc/meminfo /proc/swaps /proc/partitions /proc/net/sockstat /proc/net/sockstat6 /proc/sys/fs/file-nr
/proc/sys/kernel/random/boot_id /proc/sys/kernel/osrelease /proc/sys/kernel/hostname /proc/sys/kernel/dmesg_restrict
/etc/machine-id /etc/os-release /etc/fstab'
missing=''
for f in $counters $statics /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io; do
  if [ -r "$f" ]; then :; elif [ -e "$f" ]; then missing="${missing}denied $f$nl"; else missing="${missing}absent $f$nl"; fi
done
n=0
tree=''
for d in /sys/block/*; do
  case $d in */loop* | */ram* | */zram* | */fd* | */sr* | */\*) continue ;; esac
  tree="$tree $d/slaves/* $d/${d##*/}*/partition"
  n=$((n + 1))
  [ "$n" -gt 64 ] && continue
  for f in ro removable queue/rotational device/model dm/name dm/uuid; do [ -r "$d/$f" ] && statics="$statics $d/$f"; done
done
for f in /sys/fs/ext4/*/errors_count /sys/devices/system/edac/mc/mc*/[cu]e_count /proc/sys/net/netfilter/nf_conntrack_count \
  /proc/sys/net/netfilter/nf_conntrack_max /proc/sys/kernel/arch /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name; do
  [ -r "$f" ] && statics="$statics $f"
done
restrict=1
read -r restrict </proc/sys/kernel/dmesg_restrict
if [ "$restrict" = 0 ] || [ -r /proc/kmsg ]; then statics="$statics dmesg"; fi
case $pause in *[1-9]*) reading=first ;; *) reading=once ;; esac
# shellcheck disable=SC2086 # lists of names without blanks
A=$(processes | awk "$look" "$reading" $counters $statics)
stalls ''
own="$nl@@$N ="
left=${A##*"$own"}
A=$nl${A%"$own"*}
M=${A%%"$nl=$nl"*}

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

printf '%s\n' "${A#*"$nl=$nl"}"
mark missing
printf '%s' "$missing"

mark block-tree
# shellcheck disable=SC2086 # patterns
printf '%s\n' $tree

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
# An XFS that has shut down still answers statfs; stat of its root says EIO. What only cannot be reached is no such case.
ids='' dead=''
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
  if [ "$kind" = G ] || [ -e "$name" ] || [ ! -e "${name%/*}/." ] || [ ${#dead} -gt 2000 ]; then continue; fi
  said=$(stat -c %i -- "$name" 2>&1 >/dev/null) || dead="$dead$id ${said##*: }$nl"
done
unset IFS
set +f
mark read-errors
printf '%s' "$dead"
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

# ---- systemd ----------------------------------------------------------------------------------------------------------
if [ -d /run/systemd/system ]; then
  mark units
  timeout -s KILL 3 systemctl list-units --failed --no-legend --plain --no-pager --full
  printf 'status %s\n' "$?"
fi

# ---- second reading -------------------------------------------------------------------------------------------------
if [ "$reading" = first ]; then
  sleep "$pause" || sleep 1
  # shellcheck disable=SC2086
  A=$({ printf '%s\n=\n' "$left"; processes; } | awk "$look" second $counters)
  stalls '2:'
  left=${A##*"$own"}
  printf '%s\n' "${A%"$own"*}"
fi

# ---- PostgreSQL: what its command line says -------------------------------------------------------------------------
mark postgres
[ -z "$left" ] || printf '%s\n' "${left#"$nl"}"
set -f
n=0
for pid in $left; do
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
