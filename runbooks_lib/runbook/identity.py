"""Which host this is, for a plan that is approved for this host and no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.runbook.quoting import text_of, words

# findmnt and blkid are not everywhere and blkid wants root: the links of udev say the same to everybody. A filesystem
# without one (overlay, tmpfs, NFS) is told by its source and the id that statfs(2) gives.
_SCRIPT = """LC_ALL=C; export LC_ALL
[ -r /etc/machine-id ] && { printf 'machine '; head -n 1 /etc/machine-id; }
for f in /etc/ssh/ssh_host_*_key.pub; do
  [ -r "$f" ] && read -r type blob rest <"$f" && printf 'key %s %s\\n' "$type" "$blob"
done
for path in "$@"; do
  while [ ! -e "$path" ] && [ "$path" != / ] && [ "$path" != . ]; do path=$(dirname -- "$path"); done
  source=$(df -P -- "$path" 2>/dev/null | { read -r x; read -r source x; printf '%s' "$source"; })
  uuid=
  for link in /dev/disk/by-uuid/*; do
    [ -e "$link" ] && [ "$link" -ef "$source" ] && uuid=${link##*/}
  done
  printf 'filesystem %s\\n' "${uuid:-$source $(stat -f -c %i -- "$path" 2>/dev/null)}"
done
exit 0
"""


@dataclass(frozen=True)
class Identity:
    """A host's identity: /etc/machine-id, the fingerprints of its SSH host keys as its own files show them, and the
    filesystems that a runbook touches, by UUID where they have one."""

    host: str
    machine_id: str
    host_keys: tuple[str, ...]
    filesystems: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        """As it stands in the journal."""
        return {
            "host": self.host,
            "machine_id": self.machine_id,
            "host_keys": list(self.host_keys),
            "filesystems": list(self.filesystems),
        }


def identify(host: Host, touches: Sequence[str]) -> Identity:
    """Ask the host who it is. Raises RunbookError when it cannot be told from another, HostError when unreachable."""
    text = f"set -- {words(*touches)}\n{_SCRIPT}" if touches else f"set --\n{_SCRIPT}"
    result = host.run(Script(text, name="identity"))
    machine, keys, filesystems = "", set(), []
    for line in text_of(result.stdout).splitlines():
        kind, _, value = line.partition(" ")
        if kind == "machine":
            machine = value.strip()
        elif kind == "key":
            keys.add(_fingerprint(value))
        elif kind == "filesystem":
            filesystems.append(value)
    if machine in ("", "uninitialized") and not keys:
        raise RunbookError(
            "it has neither a machine-id nor readable SSH host keys",
            where=host.name,
            true_now="it cannot be told from another host; nothing was run",
            next="run `systemd-machine-id-setup` there, or make /etc/ssh/*.pub readable",
        )
    return Identity(host.name, machine, tuple(sorted(keys)), tuple(filesystems))


def _fingerprint(line: str) -> str:
    """`ssh-ed25519 SHA256:…`, as ssh-keygen -l shows it."""
    kind, _, blob = line.partition(" ")
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except ValueError:
        return f"{kind} unreadable"
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
