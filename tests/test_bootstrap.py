"""The set-up says in one sentence what is missing, and makes nothing then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the set-up needs of a checkout, and an empty directory for programs."""
    (tmp_path / "clone/runbooks_lib").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "runbooks_lib/bootstrap.sh"):
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    for name in ("sh", "dirname", "cat", "cksum", "mkdir", "rmdir", "rm"):
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    return tmp_path / "clone"


def python(checkout: Path, text: str) -> None:
    program = checkout.parent / "bin/python3"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def set_up(checkout: Path) -> str:
    done = subprocess.run(
        ["sh", "runbooks_lib/bootstrap.sh"],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(checkout.parent / "bin"), "PYTHON": ""},
        timeout=60,
    )
    assert done.returncode == 2
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".venv-being-made").exists()
    return done.stderr


def test_no_python_is_told_with_what_to_install(checkout: Path) -> None:
    told = set_up(checkout)
    assert "Python 3.11 or newer is needed; found: " in told
    assert "apt install python3 python3-venv" in told
    assert "brew install" in told


def test_an_old_python_is_told_with_its_version(checkout: Path) -> None:
    python(checkout, 'case $1 in --version) echo "Python 3.9.2";; *) exit 1;; esac')
    assert "found: Python 3.9.2." in set_up(checkout)


def test_a_python_without_venv_is_told_with_the_package_to_install(checkout: Path) -> None:
    python(checkout, f'case $2 in "import venv"*) exit 1;; esac\nexec {sys.executable} "$@"')
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"has no venv module. Install it (Debian/Ubuntu: sudo apt install python{version}-venv)" in set_up(checkout)
