"""JupyterLab for runbooks: on this machine only, its token in a private file, nothing fetched from outside.

Whoever reaches this server has the account's shell and SSH keys: that is why other addresses need TLS and a password.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import runbooks_lib
from runbooks_lib import lifeline
from runbooks_lib.config import CONFIG_ENV
from runbooks_lib.errors import RunbookError, UsageError

NOTEBOOKS = Path(runbooks_lib.__file__).parents[1] / "notebooks"
DEFAULT_PORT = 8888
START_SECONDS = 60.0

# What JupyterLab would ask the internet for at its start, and the pop-up about it.
_OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    }
}
_IPYTHON = """\
c.HistoryManager.enabled = False  # what is typed in an incident is not kept in a database
c.InteractiveShellApp.extensions = ["runbooks_lib.reports.kernel"]  # what is read as a secret is shown as ***
"""


class _Held:
    """The directory of one address is one server's: its lock, until it is let go of."""

    def __init__(self, lock: Path) -> None:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.let_go = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks: there the server's own answer still tells whose it is


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that is ready to be started: nothing runs yet.

    `url` is without the token, which stands only in `token_file` (0600; none when a password protects the server).
    `directory` is this address's own; `runtime` a private one under the system's temporary directory, removed when the
    server has ended. `held` keeps another server from the same address and directory.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    url: str
    token_file: Path | None
    directory: Path
    runtime: Path
    held: _Held

    @property
    def url_with_token(self) -> str:
        """The address that opens without a question. For a person's eyes and clipboard, not for a log."""
        if self.token_file is None:
            return self.url
        return f"{self.url}?token={self.token_file.read_text(encoding='ascii')}"


def prepare(
    directory: Path,
    *,
    notebooks: Path = NOTEBOOKS,
    config_file: Path | None = None,
    ip: str = "127.0.0.1",
    port: int | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    password: str | None = None,
    open_browser: bool = False,
) -> Lab:
    """Write the server's settings under `directory` (0700) and say how it would be started.

    Each port has a directory of its own there (`8888`), so that several servers do not share a token. The user's own
    Jupyter and IPython settings are neither read nor changed. `password` is a plain password that was read from a
    secret reference; it is stored hashed. Raises UsageError for an address other than this machine's without TLS and
    password, for a port in use and for a missing notebook directory.
    """
    if not notebooks.is_dir():
        raise UsageError("no such directory of notebooks", where=str(notebooks))
    _check_address(ip, certificate, key, password)
    chosen, directory, held = _free_port(ip, port, directory)
    for part in (directory, directory / "config", directory / "data", directory / "settings", directory / "user"):
        part.mkdir(parents=True, exist_ok=True)
        part.chmod(0o700)
    profile = directory / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    _write(profile / "ipython_config.py", _IPYTHON)
    _write(directory / "settings" / "overrides.json", json.dumps(_OVERRIDES))
    # Short on purpose: kernels talk over sockets in it, whose path may have about 100 characters (unix(7)).
    runtime = Path(tempfile.mkdtemp(prefix="runbook-lab-"))
    token_file: Path | None = None
    settings = _settings(notebooks, directory, ip, chosen, certificate, key, open_browser)
    if password is not None:
        settings["PasswordIdentityProvider"] = {"hashed_password": _hashed(password), "allow_password_change": False}
    else:
        token_file = directory / "token"
        _write(token_file, secrets.token_urlsafe(32))
    _write(directory / "config" / "jupyter_server_config.json", json.dumps(settings, indent=1))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    environment |= {
        "JUPYTER_NO_CONFIG": "",  # empty: our own configuration directory is read
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_CONFIG_PATH": str(directory / "config"),
        "JUPYTER_DATA_DIR": str(directory / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTERLAB_SETTINGS_DIR": str(directory / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(directory / "user"),
        "IPYTHONDIR": str(directory / "ipython"),
    }
    if token_file is not None:
        environment["JUPYTER_TOKEN_FILE"] = str(token_file)
    if config_file is not None:
        environment[CONFIG_ENV] = str(config_file)
    scheme = "https" if certificate else "http"
    shown = f"[{ip}]" if ":" in ip else ip
    return Lab(
        # `-I`: a notebook directory with a file json.py in it must not become part of the server.
        command=(sys.executable, "-I", "-m", "jupyterlab"),
        environment=environment,
        url=f"{scheme}://{shown}:{chosen}/lab/tree/start-here.ipynb",
        token_file=token_file,
        directory=directory,
        runtime=runtime,
        held=held,
    )


@contextlib.contextmanager
def running(lab: Lab, *, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, wait until it answers, and end it and its kernels on leaving.

    Raises RunbookError, with the end of what it said, when it does not answer within START_SECONDS.
    """
    output = tempfile.TemporaryFile() if log is None else _private_log(log)  # noqa: SIM115 (closed below)
    left = [str(lab.runtime), *([] if lab.token_file is None else [str(lab.token_file)])]
    process = subprocess.Popen(
        # Whatever becomes of this process, the server ends: its shell must not stay open behind a dead command.
        [sys.executable, "-I", lifeline.__file__, *left, "--", *lab.command],
        env=lab.environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us first, and the whole group is ended by us
    )
    try:
        _wait_until_it_answers(lab, process, output)
        yield process
    finally:
        _end(process)
        output.close()
        shutil.rmtree(lab.runtime, ignore_errors=True)
        if lab.token_file is not None:
            lab.token_file.unlink(missing_ok=True)
        lab.held.let_go()


def _settings(
    notebooks: Path,
    directory: Path,
    ip: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    open_browser: bool,
) -> dict[str, dict[str, object]]:
    server: dict[str, object] = {
        "ip": ip,
        "port": port,
        "port_retries": 0,
        "root_dir": str(notebooks),
        "open_browser": open_browser,
        "default_url": "/lab/tree/start-here.ipynb",
        "allow_root": True,  # whoever starts it as root has decided so; loopback and token protect it all the same
    }
    if certificate is not None and key is not None:
        server |= {"certfile": str(certificate), "keyfile": str(key)}
    return {
        "ServerApp": server,
        "LabApp": {
            "extension_manager": "readonly",
            "news_url": None,
            "app_settings_dir": str(directory / "settings"),
            "collaborative": False,
        },
        # Without ports nobody else on the machine can listen in, and ipykernel has nothing to warn of.
        "KernelManager": {"transport": "ipc"},
    }


def _check_address(ip: str, certificate: Path | None, key: Path | None, password: str | None) -> None:
    try:
        address = ipaddress.ip_address("127.0.0.1" if ip == "localhost" else ip)
    except ValueError:
        raise UsageError(f"{ip!r} is not an IP address", next="leave it out: the default is 127.0.0.1") from None
    if address.is_loopback:
        return
    missing = [
        name
        for name, given in (("a TLS certificate", certificate), ("its key", key), ("a password", password))
        if not given
    ]
    if missing:
        raise UsageError(
            f"{ip} can be reached from other machines, and {' and '.join(missing)} is missing",
            true_now="JupyterLab was not started",
            next="use the default address with `ssh -L`, or give --certificate, --key and --password",
        )
    for path in (certificate, key):
        if path is not None and not path.is_file():
            raise UsageError("no such file", where=str(path), true_now="JupyterLab was not started")


def _hashed(password: str) -> str:
    from jupyter_server.auth import security

    hash_of: Any = security.passwd  # the library has no types there
    return str(hash_of(password))


def _free_port(ip: str, wanted: int | None, directory: Path) -> tuple[int, Path, _Held]:
    """A port, its own directory, and the hold on both: until the server binds the port, only that keeps others off."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    for port in [wanted] if wanted is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + 20), 0]:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ip, port))
            except OSError:
                continue
            chosen = int(probe.getsockname()[1])
            own = directory / (str(chosen) if ip in ("127.0.0.1", "localhost") else f"{ip}-{chosen}")
            try:
                return chosen, own, _Held(own / ".lock")
            except BlockingIOError:
                continue
    raise UsageError(
        f"port {wanted} on {ip} is in use or not allowed",
        true_now="JupyterLab was not started",
        next="leave --port out, or choose another",
    )


def _wait_until_it_answers(lab: Lab, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    address = lab.url.partition("/lab")[0] + "/api/status"
    asked = urllib.request.Request(address)  # noqa: S310 (http or https by how it was made)
    if lab.token_file is not None:
        asked.add_header("Authorization", f"token {lab.token_file.read_text(encoding='ascii')}")
    end = time.monotonic() + START_SECONDS
    # Our own server on our own address: a proxy from the environment must not get in between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < end:
        try:
            with opener.open(asked, timeout=2):
                return
        except urllib.error.HTTPError:
            if lab.token_file is None:
                return  # it answers, and asks for its password
            time.sleep(0.1)  # another program's server, on our port, does not know our token: ours will end
        except OSError as error:  # URLError is one
            if "CERTIFICATE" in str(error):
                return
            time.sleep(0.1)
    raise RunbookError(
        "JupyterLab did not start" if process.poll() is not None else f"no answer within {START_SECONDS:g} s",
        where=address,
        true_now=f"it is stopped; it said: {_tail(output)}",
        next="mend what it names; `make clean` and `make setup` install it anew",
    )


def _tail(output: IO[bytes]) -> str:
    try:
        output.seek(0)
        return output.read()[-1500:].decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()  # the line is let go of: the server shuts its kernels down
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(lifeline.STOP_SECONDS + 2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _private_log(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb+")


def _write(path: Path, text: str) -> None:
    """A private file, never readable by others even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
