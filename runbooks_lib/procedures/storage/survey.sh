# Reads what the ways to more space go by; changes nothing. Before it stand slow.sh, which leaves the `rows` of deleted
# files and the PostgreSQL servers that are `here`; look.sh; and: nonce m look, and the named files as $@
mark() { printf '\n@@%s %s\n' "$nonce" "$1"; }
exec 2>/dev/null </dev/null
cd / || exit 1
mark 'begin 1'
# A mount that does not answer is not looked at again, and what is none is no question.
if ! answers "$m" || ! findmnt -n -M "$m" >/dev/null; then
  mark end
  exit 0
fi
mark tools
for each in lvextend pvcreate resize2fs xfs_growfs btrfs tune2fs sfdisk growpart partx fallocate gzip journalctl apt-get \
  dnf systemctl psql; do
  command -v "$each" >/dev/null && printf '%s\n' "$each"
done
mark filesystem
type=$(type_of "$m") source=$(source_of "$m")
printf 'type %s\nsource %s\nname %s\ndevice_number %s\n' "$type" "$source" "$(basename "$(readlink -f "$source")")" \
  "$(stat -c %d -- "$m")"
printf 'device_bytes %s\n' "$(blockdev --getsize64 "$source")"
printf 'filesystem_bytes %s\n' "$(fs_bytes "$type" "$source" "$m")"
case $type in
ext*) dumpe2fs -h "$source" | awk -F': *' '/^Reserved block count:/ { r = $2 } /^Block size:/ { s = $2 }
  END { printf "reserve_bytes %.0f\nblock_bytes %d\n", r * s, s }' ;;
esac
printf 'behind_bytes %s\n' "$(behind_partition "$(basename "$(readlink -f "$source")")")"

# Whole disks and partitions that nothing stands on, and why each is not empty.
mark disks
for each in /sys/class/block/*; do
  k=${each##*/}
  case $k in loop* | ram* | sr* | dm-* | md* | fd* | zram* | nbd* | drbd*) continue ;; esac
  read -r size <"$each/size" && [ "$size" -ge 131072 ] || continue
  printf '%s %s %s\n' "$k" "$((size * 512))" "$(timeout -s KILL 90 sh -c "$look"'
not_empty "$1" && echo empty' look "/dev/$k")"
done

# How much lies behind each physical volume: the disk or its partition has been made larger.
mark volumes
pvs --noheadings --nosuffix --units b --separator ' ' -o pv_name,dev_size,pv_size,vg_name | while read -r pv dev size vg; do
  printf '%s %s %s %s %s\n' "$pv" "$dev" "$size" "$(behind_partition "$(basename "$(readlink -f "$pv")")" || echo 0)" "$vg"
done

mark journal
for each in /var/log/journal/*/*; do
  case $each in *.journal | *.journal~) stat -c '%d %b %B %n' -- "$each" ;; esac
done
mark packages
for each in /var/cache/apt/archives /var/cache/dnf; do
  [ -d "$each" ] && printf '%s %s %s\n' "$(stat -c %d "$each")" \
    "$(find "$each" -type f \( -name '*.deb' -o -name '*.rpm' \) -exec stat -c '%b' {} + | awk '{ n += $1 } END { printf "%.0f", n * 512 }')" "$each"
done

# Large logs, largest first: their disk space, length, whether they belong to a database, and the name in hexadecimal.
mark logs
look=$look timeout -s KILL 20 nice -n 19 find "$m" -xdev -type f -size +4096k \( -name '*.log' -o -name '*.log[-.]*' -o \
  -name '*.out' -o -name '*.err' \) ! -name '*.[gx]z' ! -name '*.zst' -exec sh -c 'eval "$look"
for f do
  said=$(stat -c "%b %s" -- "$f") || continue
  database_above "$f" >/dev/null && of=database || of=nobody
  printf "%s %s %s\n" "$said" "$of" "$(printf %s "$f" | od -An -v -tx1 | tr -d " \n")"
done' look {} + | sort -rn | head -n 8

# The files that a person has named, in their order.
mark files
for each do stat -c '%d %b' -- "$each" || echo '- -'; done

# Of each process that holds a deleted file: the unit that it belongs to, and whether that can be reloaded.
mark units
for each in $(printf '%s\n' "$rows" | awk -v d="$(stat -c %D -- "$m")" '$6 == d { split($1, p, "/"); print p[3] }' | sort -u); do
  [ -e "/proc/$each/cgroup" ] || { echo "$each gone -"; continue; }
  unit=$(sed -n 's|.*/\([^/]*\.service\).*|\1|p' "/proc/$each/cgroup" | tail -n 1)
  printf '%s %s %s\n' "$each" "$(systemctl show -p CanReload --value -- "$unit")" "$unit"
done

# PostgreSQL's settings, of each server that was found.
for each in $here; do
  mark "server $each"
  settings_of "$(readlink "/proc/$each/cwd")"
done

mark missing
mark end
