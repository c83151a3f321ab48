"""What confines a server to its paths: SELinux contexts, and an AppArmor profile.

SELinux: a new directory gets the context of the old one before anything is written into it, so that what is made
there inherits its type (chcon(1)), and a rule makes that last beyond a relabelling (semanage-fcontext(8), `-e`).
AppArmor: the profile is somebody else's text. What it lacks is told, word for word, and the move waits until it is
there; a standby is confined by it as well, so that a profile that was not loaded anew is met before the switch.
"""

from __future__ import annotations

from runbooks_lib.runbook.quoting import word

SELINUX, APPARMOR, PROCESSES = "/sys/fs/selinux", "/etc/apparmor.d", "/proc"  # a test names others

_FUNCTIONS = """selinux() { [ -e "$SELINUX/enforce" ]; }
label() { # OLD NEW: the context of a new directory
  ! selinux || chcon --reference="$1" -- "$2"; }
type_of() { # a context, user:role:type:range
  type=${1#*:}; type=${type#*:}; type=${type%%:*}; }
lasting() { # x OLD NEW: after a relabelling it would have the type that the old one has
  [ -d "$2" ] || return 0
  type_of "$(stat -c %C -- "$2")"; old=$type
  type_of "$(matchpathcon -n "$3" 2>/dev/null)"; [ "$type" = "$old" ]; }
rule() { ! selinux || lasting "$@" || semanage fcontext -a -e "$2" "$3"; }
unrule() { ! selinux || ! semanage fcontext -l -C | grep -qxF -- "$3 = $2" || semanage fcontext -d -e "$2" "$3"; }
"""
_CHECK = """if selinux; then
  for each in chcon matchpathcon semanage; do
    command -v "$each" >/dev/null || no "SELinux is on, and $each is missing: policycoreutils-python-utils, libselinux-utils"
  done
  echo "SELinux is on: the new directories get the context of the old ones, $(stat -c %C -- "$R"), and a rule keeps it"
fi
runs "$R" || pid=$(systemctl show -p MainPID --value "$UNIT" 2>/dev/null)
profile=; { read -r profile <"$PROCESSES/${pid:-0}/attr/apparmor/current"; } 2>/dev/null
case $profile in
  *' (enforce)' | *' (kill)') profile=${profile% (*};;
  *) yes "neither SELinux nor AppArmor stands in the way";;
esac
text=$(grep -lsE "^[[:space:]]*(profile[[:space:]]+)?\\"?$profile\\"?[[:space:]{]" "$APPARMOR"/* | head -n 1)
[ -n "$text" ] || cannot_tell "AppArmor confines process $pid by the profile $profile, which is in no file of $APPARMOR"
own=$APPARMOR/local/${text##*/} lines=
reached() { # x x DIRECTORY
  for line in "\\"$3/\\" r," "\\"$3/**\\" rwk,"; do
    grep -qsxF -e "$line" -e "  $line" -- "$own" "$text" || lines="$lines '$line'"
  done
}
reached x x "$T" && apart reached
[ -z "$lines" ] ||
  no "AppArmor confines the server by the profile $profile: printf '%s\\n'$lines >>$own && apparmor_parser -r $text"
yes "the AppArmor profile $profile names the new places"
"""  # noqa: E501


def shell() -> str:
    """The functions `label OLD NEW`, and of one directory that moves, `lasting`, `rule` and `unrule x OLD NEW`."""
    return f"SELINUX={word(SELINUX)}\n{_FUNCTIONS}"


def check() -> str:
    """The text of a check: what confines the server lets it reach the new places, or will."""
    return f"{shell()}APPARMOR={word(APPARMOR)}\nPROCESSES={word(PROCESSES)}\n{_CHECK}"
