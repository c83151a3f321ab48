"""Starting the server on the old path without detours, and with nothing changed but what lies there.

A distribution's unit may start a server through a wrapper that takes longer than the server itself (Debian's
pg_ctlcluster: half a second of waiting, three test connections). For the length of the switch a drop-in in /run, which
a reboot empties, gives the unit the very command line, environment and log that the running server was found with; the
process belongs to the same unit. Without systemd the same line is started by hand.
"""

from __future__ import annotations

from runbooks_lib.procedures.relocate_postgres import placing
from runbooks_lib.procedures.relocate_postgres.cluster import Cluster, server_arguments
from runbooks_lib.runbook.quoting import word, words


def unit_word(value: str) -> str:
    """One word of a command line in a unit (systemd.service(5), "Command lines", and systemd.unit(5), specifiers)."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


# The log is opened by the server's user: in a sticky directory such as Debian's /var/log/postgresql even root may not
# open another's file for appending (the kernel's fs.protected_regular).
_TO_LOG = 'exec >>"$1" 2>&1 </dev/null; shift; exec "$@"'


def line(of: Cluster, at: str) -> list[str]:
    """The words that start the server on a path, as its user."""
    server = [str(of.facts["exe"]), *server_arguments(of, at)]
    return ["/bin/sh", "-c", _TO_LOG, "sh", str(of.facts["log"]) or "/dev/null", *server]


def drop_in(of: Cluster, at: str) -> str:
    """The drop-in for the server's unit while the switch lasts."""
    lines = ["[Service]", "Type=simple", f"User={of.facts['owner']}", f"Group={of.facts['group']}"]
    lines += [f"Environment={unit_word(each).replace('$$', '$')}" for each in of.facts["environment"]]
    lines += ["ExecStartPre=", "ExecStart=", "ExecStart=" + " ".join(map(unit_word, line(of, at)))]
    lines += ["ExecStartPost=", "ExecStop=", "ExecStopPost=", "KillSignal=SIGINT", "KillMode=mixed", "Restart=no"]
    return "\n".join(lines)


def _by_hand(of: Cluster, at: str) -> str:
    """Shell text that becomes the server on a path, as its user."""
    return (
        f"cd / && exec setpriv --reuid={word(str(of.facts['owner']))} --regid={word(str(of.facts['group']))} "
        f"--init-groups -- env {words(*of.facts['environment'])} {words(*line(of, at))}"
    )


def shell(of: Cluster, way: str) -> str:
    """Functions `ready` (for the path after the switch), `start PATH`, `unready`."""
    at = placing.started_at(of, way)
    names = {
        "DROP": f"/run/systemd/system/{of.facts['unit']}.d",
        "DROP_TEXT": drop_in(of, at),
        "BY_HAND": _by_hand(of, of.directory),
        "BY_HAND_AFTER": _by_hand(of, at),
    }
    return "".join(f"{name}={word(value)}\n" for name, value in names.items()) + _FUNCTIONS


# `systemctl start` is repeated: systemd may not have seen yet that the old process is gone, and then does nothing. If
# the drop-in's way does not work after all, the unit's own is taken.
_FUNCTIONS = """ready() {
  [ -n "$UNIT" ] || return 0
  mkdir -p -- "$DROP" && printf '%s\\n' "$DROP_TEXT" >"$DROP/zz-relocate.conf" && systemctl daemon-reload
}
unready() {
  [ -n "$UNIT" ] && [ -e "$DROP/zz-relocate.conf" ] || return 0
  rm -f -- "$DROP/zz-relocate.conf"; rmdir -- "$DROP" 2>/dev/null; systemctl daemon-reload
}
start() { # PATH; the drop-in is for the path after the switch, the unit's own way finds whichever is right
  [ "$1" = "$AT" ] || [ "$1" -ef "$AT" ] || unready
  i=0
  until runs "$1"; do
    [ $i != 150 ] || unready
    if [ $((i % 50)) = 0 ]; then
      if [ -n "$UNIT" ]; then systemctl reset-failed "$UNIT" 2>/dev/null; systemctl start --no-block "$UNIT"
      elif [ "$1" = "$AT" ]; then setsid /bin/sh -c "$BY_HAND_AFTER" >/dev/null 2>&1 </dev/null &
      else setsid /bin/sh -c "$BY_HAND" >/dev/null 2>&1 </dev/null & fi
    fi
    i=$((i+1)); [ $i -lt 3000 ] || return 1
    sleep 0.02
  done
}
"""
