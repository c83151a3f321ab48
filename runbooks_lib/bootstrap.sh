#!/bin/sh
# Makes .venv beside the Makefile with exactly what requirements.txt pins. POSIX sh: it must run where Python is missing or old.
# Usage: sh runbooks_lib/bootstrap.sh        (PYTHON=/path/to/python3.12 chooses the interpreter)
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

if ! python=$(find_python); then
    seen=$(python3 --version 2>&1) || seen="no python3"
    say "Python 3.11 or newer is needed; found: $seen."
    say "Install it (Debian 12+/Ubuntu 24.04+: sudo apt install python3 python3-venv; macOS: brew install python@3.13), then run make again."
    say "If it has another name or place: make PYTHON=/path/to/python3.12 demo"
    exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "$python has no venv module. Install it (Debian/Ubuntu: sudo apt install python$version-venv), then run make again."
    exit 2
fi

wanted=$(cat requirements.txt pyproject.toml | cksum)
if [ -x .venv/bin/python ] && [ "$(cat .venv/installed-from 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

# Two calls at once (make demo in one terminal, make test in another) must not install into each other.
if ! mkdir .venv-being-made 2>/dev/null; then
    say "Another set-up is at work here (or was killed: then remove the folder .venv-being-made), nothing was changed."
    exit 1
fi
trap 'rmdir .venv-being-made 2>/dev/null || true' EXIT
trap 'exit 130' HUP INT TERM

if ! { [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null; }; then
    rm -rf .venv
    say "Making .venv with $("$python" --version 2>&1) …"
    "$python" -m venv .venv
fi
rm -f .venv/installed-from
say "Installing the pinned packages (about a minute the first time) …"
if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; then
    say "The packages could not be installed (see above). Is there a network, and room for 700 MB here? Run make again: it goes on from where it was."
    exit 1
fi
# The package itself, editable, by the pinned flit_core and with no network.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
printf '%s\n' "$wanted" > .venv/installed-from
