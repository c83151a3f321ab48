"""The three ways in which the old path leads to the new place, and what each costs.

* `symlink`: one rename. What follows no symlinks (some backup programs, `du`) sees a link.
* `bind`: a mount at the old path. Nothing sees a link; one more mount must come up at every boot, and the server waits
  for it.
* `data_directory`: the server's configuration names the new place, and the old path is gone. Whatever else names it
  (backups, scripts, monitoring) must be changed as well.
"""

from __future__ import annotations

from runbooks_lib.procedures.relocate_postgres import fstab
from runbooks_lib.procedures.relocate_postgres.cluster import Cluster
from runbooks_lib.runbook.quoting import word

COSTS = {
    "symlink": "a program that follows no links (some backups, du) sees a link",
    "bind": "one more mount at every boot, and the server waits for it",
    "data_directory": "the old path is gone; backups, scripts and monitoring that name it must be changed",
}
WAYS = ("symlink", "bind", "data_directory")

# `placed`: whether the old path leads to the target; `place` and `displace` may be cut off anywhere and called again.
_SYMLINK = """placed() { [ "$P" -ef "$T" ]; }
prepare() { ln -sfn -- "$T" "$P.relocate"; }
place() { # rename(2) puts the link there at once
  [ -L "$P.relocate" ] || prepare || return 1
  mv -T -- "$P.relocate" "$P"; }
displace() {
  if [ -n "$LINK" ]; then ln -sfn -- "$LINK" "$P.relocate" && mv -T -- "$P.relocate" "$P"
  else [ ! -L "$P" ] || rm -f -- "$P"; fi; }
forget() { rm -f -- "$P.relocate"; }
"""
_BIND = """placed() { [ "$P" -ef "$T" ]; }
prepare() { :; }
place() {
  [ ! -L "$P" ] || return 1
  [ -d "$P" ] || install -d -m 0700 -o "$OWNER" -g "$GROUP" -- "$P" || return 1
  enlist "$BIND" || return 1
  [ "$P" -ef "$T" ] || mount --bind -- "$T" "$P"; }
displace() {
  if [ "$P" -ef "$T" ]; then umount -- "$P" || return 1; fi
  delist "$BIND" || return 1
  [ ! -d "$P" ] || [ -e "$P/PG_VERSION" ] || [ -e "$P/PG_VERSION.relocated" ] || rmdir -- "$P"; }
forget() { rm -f -- "$FSTAB.relocate"; }
"""
# The line is put at the end, where it wins; the old one stays as it is (the manual, "Setting Parameters"). The
# configuration's directory may belong to the account (Debian's does): what was put there is not to be followed by root.
_DATA_DIRECTORY = """placed() { grep -qxF -- "$NAMED" "$CONF"; }
prepare() { :; }
theirs() { setpriv --reuid="$(stat -c %u -- "${CONF%/*}")" --regid="$(stat -c %g -- "${CONF%/*}")" --clear-groups -- \\
  sh -c "$1" sh "$CONF" "$NAMED"; }
renew_conf() { sync -- "$CONF.relocate" && mv -fT -- "$CONF.relocate" "$CONF" && sync -- "${CONF%/*}"; }
place() { placed || {
  theirs 'cp -p -- "$1" "$1.relocate" && printf "%s\\n" "$2" >>"$1.relocate"' && renew_conf; }; }
displace() { ! placed || {
  theirs 'cp -p -- "$1" "$1.relocate" && { grep -vxF -- "$2" "$1" >"$1.relocate"; [ $? -le 1 ]; }' && renew_conf; }; }
forget() { rm -f -- "$CONF.relocate"; }
"""
_FUNCTIONS = {"symlink": _SYMLINK, "bind": _BIND, "data_directory": _DATA_DIRECTORY}


def bind_line(of: Cluster) -> str:
    """The line for /etc/fstab; the mount waits for that of the target (systemd.mount(5))."""
    target, directory = (fstab.fstab_word(each) for each in (of.target, of.directory))
    return f"{target} {directory} none bind,nofail,x-systemd.requires-mounts-for={target} 0 0"


def shell(of: Cluster, way: str) -> str:
    """The functions `placed`, `prepare`, `place`, `displace` and `forget` of one way, and `AT`, the path at which the
    server is started afterwards."""
    names = {
        "LINK": str(of.facts["link"]),
        "CONF": str(of.facts["config_file"]),
        "NAMED": f"data_directory = '{of.target}'",
        "BIND": bind_line(of),
        "AT": started_at(of, way),
    }
    return "".join(f"{name}={word(value)}\n" for name, value in names.items()) + fstab.shell() + _FUNCTIONS[way]


def started_at(of: Cluster, way: str) -> str:
    """The path that the server is started with after the switch."""
    return of.target if way == "data_directory" else of.directory


def fit(of: Cluster, way: str) -> str:
    """Shell text of a precheck: whether this way can be gone here."""
    inside = str(of.facts["config_file"]).startswith((of.real + "/", of.directory + "/"))
    if way == "data_directory" and inside:
        return "no 'its configuration lies in the data directory itself: place_by=symlink or bind'\n"
    if way == "bind" and of.facts["link"]:
        return "no 'the old path is a symlink already: place_by=symlink'\n"
    return f"yes 'the old path can lead to the new place by {way}; what it costs: {COSTS[way]}'\n"
