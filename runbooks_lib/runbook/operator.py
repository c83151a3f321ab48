"""The person at the keyboard: what is said to them, what is asked, and who they are."""

from __future__ import annotations

import os
import platform
import pwd
import sys
from html import escape
from typing import Any, Protocol

from runbooks_lib import __version__
from runbooks_lib.hosts.connection import Login
from runbooks_lib.hosts.host import Host
from runbooks_lib.runbook.quoting import shown
from runbooks_lib.secrets import redact


class Operator(Protocol):
    """How the runner speaks to a person. `present` is false in a headless run: then nothing is ever asked."""

    present: bool

    def say(self, text: str) -> None:
        """Show text."""

    def fold(self, title: str, text: str) -> bool:
        """Show text folded away under its title. False where that cannot be done; then nothing was shown."""

    def ask(self, question: str) -> str:
        """Wait for an answer."""


class Console:
    """A terminal, or a notebook's cell: `input()` waits in both, and holds up Run All.

    A button would not: a click is not handled while a cell runs.
    """

    def __init__(self, *, present: bool | None = None) -> None:
        self.present = someone_is_there() if present is None else present

    def say(self, text: str) -> None:
        """Print it, masked, with nothing in it that steers a terminal."""
        print(shown(redact(text)), flush=True)

    def fold(self, title: str, text: str) -> bool:
        """In a notebook, a line that opens at a click; nothing in a terminal."""
        if _kernel() is None:
            return False
        from IPython.display import publish_display_data

        title, text = shown(redact(title)), shown(redact(text))
        html = f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
        publish: Any = publish_display_data  # the library has no types there
        publish({"text/html": html, "text/plain": f"{title}\n{text}"})
        return True

    def ask(self, question: str) -> str:
        """One line; EOFError when the input has ended."""
        return input(shown(redact(question)) + " ").strip()


def someone_is_there() -> bool:
    """Whether a person can be asked: a notebook's kernel that takes input, or a terminal on both ends."""
    kernel = _kernel()
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _kernel() -> Any:
    """The notebook's kernel that this runs in, or None."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


def who(host: Host) -> dict[str, Any]:
    """Who runs this, from where, by which SSH user and key (`ssh`, empty where no SSH was needed): for the journal."""
    return {
        "user": os_user(),
        "machine": platform.node(),
        "pid": os.getpid(),
        "ssh": _login(host),
        "version": __version__,
        "python": platform.python_version(),
    }


def os_user() -> str:
    """The person's account here: who called sudo, or the name of the process's user. Not what LOGNAME says."""
    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        return f"{os.environ['SUDO_USER']}(sudo)"
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _login(host: Host) -> dict[str, Any]:
    login = getattr(host, "login", None)
    return {"user": login.user, "key": login.key, "source": login.source} if isinstance(login, Login) else {}
