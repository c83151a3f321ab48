"""Lines of /etc/fstab, put in and taken out whole: a copy is written, synced, and renamed over the file."""

from __future__ import annotations

from runbooks_lib.runbook.quoting import word

FSTAB = "/etc/fstab"  # a test names another

_FUNCTIONS = """listed() { grep -qxF -- "$1" "$FSTAB"; }
renew() { sync -- "$FSTAB.relocate" && mv -f -- "$FSTAB.relocate" "$FSTAB" && sync -- "${FSTAB%/*}"; }
enlist() { listed "$1" || {
  cp -p -- "$FSTAB" "$FSTAB.relocate" && { [ -z "$(tail -c 1 -- "$FSTAB")" ] || echo >>"$FSTAB.relocate"; } &&
    printf '%s\\n' "$1" >>"$FSTAB.relocate" && renew; }; }
delist() { ! listed "$1" || {
  cp -p -- "$FSTAB" "$FSTAB.relocate" && { grep -vxF -- "$1" "$FSTAB" >"$FSTAB.relocate"; [ $? -le 1 ]; } && renew; }; }
"""


def shell() -> str:
    """The functions `listed LINE`, `enlist LINE` and `delist LINE`."""
    return f"FSTAB={word(FSTAB)}\n{_FUNCTIONS}"


def fstab_word(path: str) -> str:
    """A path as it stands in /etc/fstab (fstab(5): blanks as \\040)."""
    return path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
