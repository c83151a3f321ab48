"""The envelope round every script: what is sent to `/bin/sh -s`, and how the group that it starts is ended.

All of it goes over stdin, so that no text is quoted for the login shell (which may be fish or csh) and none stands in a
process list. One compound command is sent: the shell has read all of it before it runs the first word, therefore a
script that reads stdin cannot eat the rest of itself. The envelope

* prints a begin line with a nonce on both streams, so that whatever a `.bashrc` printed before it does not matter, and
  an end line with the exit status, so that neither a lost end-of-file nor a child that keeps stdout open holds up
  anyone;
* tells its process group, and when the group's leader was started, so that the group can be ended later and a recycled
  number is never killed;
* keeps a watchdog: a forked shell that blocks reading the connection's stdin. sshd closes that when the operator's
  connection is cut, the read ends, and the watchdog kills the group. It costs one fork, no poll and no `sleep`. (In
  bash and ksh an exported TMOUT would end the read of a healthy connection too, so it is unset first.)

Input travels in one of two ways, both without a temporary file (bash writes here-documents to one):
up to 4 KiB without NUL inside the program, fed by the shell's builtin `printf`; anything else raw, after the begin
line has been seen (dash and busybox read their stdin in blocks and would swallow what comes early), counted by `head
-c`, and the script sees its end of file only when the operator has confirmed the whole: a cut connection never looks
like a short file.
"""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass
from functools import lru_cache

COMMAND = "exec /bin/sh -s"
"""The SSH exec request. Understood alike by sh, bash, zsh, fish and csh."""

ROOT_COMMAND = """exec /bin/sh -c 'if [ "$(id -u)" = 0 ]; then exec /bin/sh -s; else exec sudo -n /bin/sh -s; fi'"""
"""As root without a password. What sudoers must allow is the constant `/bin/sh -s`."""

SMALL_INPUT_BYTES = 4096  # PIPE_BUF: always fits into an empty pipe, so that its writer never blocks

# @N@ is the nonce, @L@ the length of raw input; script and input are put in last, so that nothing inside them is
# replaced.
_HEAD = """{ unset TMOUT; exec 3<&0 4>&2 </dev/null 2>/dev/null
_rb_g=0 _rb_p=0 _rb_r=
read -r _rb_x _rb_x _rb_x _rb_p _rb_g _rb_r </proc/$$/stat || { _rb_g=$(ps -o pgid= -p $$); _rb_g=$((${_rb_g:-0})); }
[ "$_rb_g" = $$ ] || {
[ "$_rb_g" = "$_rb_p" ] && read -r _rb_x _rb_x _rb_x _rb_x _rb_x _rb_r </proc/$_rb_g/stat; } || _rb_g=0
set -- $_rb_r; _rb_s=${17:-0}; set --
printf '%s begin %s %s\\n' @N@ "$_rb_g" "$_rb_s"; printf '%s begin\\n' @N@ >&4
"""
_WATCH = """[ "$_rb_g" = 0 ] || { while read -r _rb_x; do :; done; kill -0 $$ && kill -9 -"$_rb_g"; }"""
_GUARD = "{ " + _WATCH + "; } <&3 >/dev/null 4>&- &\n"
_SCRIPT = "( exec 2>&4 3<&- 4>&-; eval "  # the quoted script follows
_SMALL_INPUT = _GUARD + "printf %s "  # the quoted input follows
# `head` fails with a broken pipe when the script reads no more, which is its right; without `head` nothing may go on.
_RAW_INPUT = (
    "{ trap '' PIPE; head -c @L@; case $? in\n"
    '0) printf \'%s fed\\n\' @N@ >&4; read -r _rb_x || kill -9 -"$_rb_g";; 12[67]) kill -9 -"$_rb_g";; esac\n'
    + _GUARD
    + "} <&3 | "
)
_TAIL = """
)
_rb_x=$?
printf '%s end %s\\n' @N@ "$_rb_x"; printf '%s end\\n' @N@ >&4; exit "$_rb_x"; }
"""


@dataclass(frozen=True)
class Wrapped:
    """One run of one script. `program` is sent first; `raw_input`, when not None, after the begin line, and then, after
    the `fed` line on stderr, one newline."""

    nonce: bytes
    program: bytes
    raw_input: bytes | None

    @property
    def fed(self) -> bytes:
        """The line on stderr that says that raw input has been taken."""
        return self.nonce + b" fed\n"

    @property
    def notes_bytes(self) -> int:
        """How much of the output is the wrapper's own word."""
        return 0 if self.raw_input is None else len(self.fed)


def wrap(text: str, input: bytes) -> Wrapped:
    """The envelope for `text` with `input` on its stdin.

    Raises ValueError when the text holds a NUL, which no shell can read.
    """
    nonce = "RB" + secrets.token_hex(16)
    small = _small_text(input)
    if not input:
        parts: tuple[str, ...] = (_HEAD + _GUARD + _SCRIPT, _quoted(text), _TAIL)
    elif small is not None:
        parts = (_HEAD + _SMALL_INPUT, shlex.quote(small), " | " + _SCRIPT, _quoted(text), _TAIL)
    else:
        parts = (_HEAD + _RAW_INPUT.replace("@L@", str(len(input))) + _SCRIPT, _quoted(text), _TAIL)
    program = "".join(part if i % 2 else part.replace("@N@", nonce) for i, part in enumerate(parts))
    return Wrapped(nonce.encode(), program.encode(), input if input and small is None else None)


def _small_text(input: bytes) -> str | None:
    """`input` when it may stand inside the program: short, no NUL (no shell holds one), and UTF-8 (a shell in a UTF-8
    locale may change other bytes)."""
    if len(input) > SMALL_INPUT_BYTES or b"\0" in input:
        return None
    try:
        return input.decode()
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    if "\0" in text:
        raise ValueError("a script cannot hold a NUL byte")
    return shlex.quote(text)


def password_command(nonce: str) -> str:
    """The exec request for root with a password.

    sudo asks with `nonce` as its prompt on stderr - only then is the password sent, so a host that does not ask never
    gets it, and a second prompt means that it was wrong. `nonce ready` on stdout says that the shell waits for the
    program.
    """
    ready = f"echo {nonce} ready; exec /bin/sh -s"
    sudo = f'exec env LC_ALL=C LANGUAGE=C sudo -k -S -p {nonce} /bin/sh -c "{ready}"'
    return f"""exec /bin/sh -c 'if [ "$(id -u)" = 0 ]; then {ready}; else {sudo}; fi'"""


_END_GROUP = """LC_ALL=C; export LC_ALL
leader_started() { { read -r x x x x x r <"/proc/$g/stat"; } 2>/dev/null || return 1; set -- $r; [ "${17}" = "$s" ]; }
members() { for f in /proc/[0-9]*/stat; do
l=; while IFS= read -r x || [ -n "$x" ]; do l="$l$x "; done <"$f" || continue
set -- ${l##*) }; [ "$3" = "$g" ] || continue
case $1 in Z|X) ;; *) echo "alive ${l%% *} $1";; esac; done 2>/dev/null; }
if [ -d "/proc/$g" ] && ! leader_started; then echo gone; exit; fi
i=0; while :; do kill -9 "-$g" 2>/dev/null
if m=$(kill -0 "-$g" 2>&1); then foreign=; else case $m in *ermitted*) foreign=1;; *) echo gone; exit;; esac; fi
if [ -r /proc/self/stat ]; then m=$(members); [ -n "$m$foreign" ] || { echo gone; exit; }; else m=; fi
i=$((i+1)); [ $i -lt 15 ] || break; sleep 0.1 2>/dev/null || sleep 1; done
printf '%s\n' "${m:-alive ? ?}"
"""


def end_group_script(group: int, leader_started: int) -> str:
    """A script that kills process group `group` and prints `gone`, or one `alive PID STATE` a process that stays (D:
    the kernel does not let go of it). Zombies are gone. A leader that was started at another time is a recycled
    number: then the group is gone, and nothing is killed.
    """
    return f"g={int(group)} s={int(leader_started)}\n{_END_GROUP}"
