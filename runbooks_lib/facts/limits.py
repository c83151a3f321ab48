"""Kernel tables that can fill: open files and tracked connections (proc_sys_fs(5), the kernel's
nf_conntrack-sysctl.rst)."""

from __future__ import annotations

from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged, number


@dataclass(frozen=True, slots=True)
class Limits:
    """Open file handles and their limit; tracked connections and theirs, None without connection tracking."""

    files_open: int
    files_limit: int
    connections: int | None = None
    connections_limit: int | None = None


def parse(file_nr: str, connections: str = "", connections_limit: str = "") -> Limits:
    """/proc/sys/fs/file-nr and the two nf_conntrack files, empty where absent. Raises Damaged."""
    fields = file_nr.split()
    if len(fields) != 3:
        raise Damaged("file-nr is not three numbers")
    tracked = number(connections.strip()) if connections else None
    return Limits(
        number(fields[0]), number(fields[2]), tracked, number(connections_limit.strip()) if connections_limit else None
    )
