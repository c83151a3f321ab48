"""The seed disk: what one machine has for itself (name, keys, address on the link, its role's files), as a tar archive
that the guest unpacks first thing at every boot. The host key is made here, so it is known before the first connection.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.training.lab.needs import program

USER = "oncall"
_USER_ID = 1000
_SECTOR_BYTES = 512


@dataclass(frozen=True)
class SeedFile:
    """A file in the guest: absolute path without the first slash, text, permission bits, owner (user and group id)."""

    path: str
    text: str
    mode: int = 0o644
    owner: int = 0


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair without a passphrase at `path` unless it is there; returns the public line."""
    if not path.exists():
        subprocess.run(
            [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            capture_output=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
    return path.with_name(path.name + ".pub").read_text(encoding="utf-8").strip()


def identity_files(hostname: str, host_key: Path, user_public: str, link_address: str) -> list[SeedFile]:
    """The files that make one machine out of an image."""
    network = f"[Match]\nName=eth1\n[Network]\nAddress={link_address}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    public = host_key.with_name(host_key.name + ".pub").read_text(encoding="utf-8")
    return [
        SeedFile("etc/lab/hostname", f"{hostname}\n"),
        SeedFile("etc/ssh/ssh_host_ed25519_key", host_key.read_text(encoding="utf-8"), 0o600),
        SeedFile("etc/ssh/ssh_host_ed25519_key.pub", public),
        SeedFile(f"home/{USER}/.ssh/authorized_keys", f"{user_public}\n", 0o600, _USER_ID),
        SeedFile("etc/systemd/network/20-link.network", network),
    ]


def write_seed(path: Path, contents: list[SeedFile]) -> None:
    """Write the archive, padded to whole sectors."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        home = tarfile.TarInfo(f"home/{USER}/.ssh")
        home.type, home.mode, home.uid, home.gid = tarfile.DIRTYPE, 0o700, _USER_ID, _USER_ID
        tar.addfile(home)
        for file in contents:
            data = file.text.encode()
            member = tarfile.TarInfo(file.path)
            member.size, member.mode, member.uid, member.gid = len(data), file.mode, file.owner, file.owner
            tar.addfile(member, io.BytesIO(data))
    data = buffer.getvalue()
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(data + bytes(-len(data) % _SECTOR_BYTES))
