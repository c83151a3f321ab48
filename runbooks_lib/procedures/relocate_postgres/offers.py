"""Ways that need no downtime at all, said before any other (lvm's pvmove(8), btrfs-replace(8))."""

from __future__ import annotations

# A function `offers` that prints a sentence when there is such a way, and nothing otherwise. It only reads.
OFFERS = """offers() {
  from=$(findmnt -n -o SOURCE -T "$R") to=$(findmnt -n -o SOURCE -T "${T%/*}/") || return 0
  [ "$(findmnt -n -o FSTYPE -T "$R")" != btrfs ] ||
    echo "it is on btrfs: 'btrfs replace' moves the file system to another disk with no downtime at all"
  command -v lvs >/dev/null || return 0
  set -- $(lvs --noheadings -o vg_name,lv_name "$from" 2>/dev/null); group=${1:-} volume=${2:-}
  set -- $(lvs --noheadings -o vg_name "$to" 2>/dev/null)
  [ -n "$group" ] && [ "$group" = "${1:-}" ] || return 0
  from=$(lvs --noheadings -o devices "$from" | sed 's/ *//;s/(.*//' | sort -u)
  to=$(lvs --noheadings -o devices "$to" | sed 's/ *//;s/(.*//' | sort -u)
  [ "$from" = "$to" ] || [ "$(printf '%s\\n' $from | wc -l)" != 1 ] ||
    echo "both disks are in the volume group $group: 'pvmove -n $volume $from' with $to as its goal moves the data" \\
      "with no downtime at all, and is the better way"
}
"""
