# SPDX-License-Identifier: MIT
"""A virtual environment inside a mount: made, installed into, run, and emptied again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from real.conftest import Place
from real.support import clean_environment, run

#: A build backend of the project's own: pip needs neither the net nor setuptools for it.
BUILD_BACKEND = """
import base64, hashlib, os, zipfile

INFO = "knots-1.0.dist-info"
META = "Metadata-Version: 2.1\\nName: knots\\nVersion: 1.0\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: knots\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
SCRIPTS = "[console_scripts]\\nknots = knots.cli:main\\n"


def build_wheel(directory, config_settings=None, metadata_directory=None):
    files = {f"{INFO}/METADATA": META, f"{INFO}/WHEEL": WHEEL, f"{INFO}/entry_points.txt": SCRIPTS}
    for top, _, names in os.walk("knots"):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(top, name)
                files[path] = open(path).read()
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text.encode())}\\n"
    files[f"{INFO}/RECORD"] = record + f"{INFO}/RECORD,,\\n"
    name = "knots-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""

PYPROJECT = """
[build-system]
requires = []
build-backend = "builder"
backend-path = ["."]

[project]
name = "knots"
version = "1.0"
"""

TESTS = """
import importlib, pkgutil, tempfile, os, unittest
import knots

class Test(unittest.TestCase):
    def test_all_modules(self):
        names = [m.name for m in pkgutil.iter_modules(knots.__path__)]
        numbers = [importlib.import_module(f"knots.{n}").NUMBER for n in names if n[0] == "m"]
        self.assertEqual(sorted(numbers), list(range(200)))

    def test_temporary_files_beside_the_package(self):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(knots.__file__)) as d:
            with tempfile.NamedTemporaryFile(dir=d) as f:
                f.write(b"x" * 100000)
                f.flush()
                self.assertEqual(os.stat(f.name).st_size, 100000)
"""


@pytest.fixture
def venv(place: Place) -> Path:
    where = place.mnt / "venv"
    base = os.path.realpath(sys.executable)
    run(base, "-m", "venv", where)
    return where


def write_project(where: Path) -> None:
    package = where / "knots"
    (package / "tests").mkdir(parents=True)
    (where / "pyproject.toml").write_text(PYPROJECT)
    (where / "builder.py").write_text(BUILD_BACKEND)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text("def main():\n    print('tied')\n")
    (package / "tests" / "__init__.py").write_text("")
    (package / "tests" / "test_knots.py").write_text(TESTS)
    for number in range(200):
        (package / f"m{number}.py").write_text(f"NUMBER = {number}\n")


def environment(place: Place) -> dict[str, str]:
    """Return an environment in which temporary files are made in the mount too."""
    temporary = place.mnt / "tmp"
    temporary.mkdir(exist_ok=True)
    env = clean_environment(
        TMPDIR=str(temporary), PIP_NO_CACHE_DIR="1", PIP_CONFIG_FILE="/dev/null"
    )
    env.pop("PYTHONPATH", None)
    return env | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def test_a_project_is_installed_tested_and_uninstalled(place: Place, venv: Path) -> None:
    env = environment(place)
    python = venv / "bin" / "python"
    project = place.mnt / "project"
    write_project(project)
    pip = (python, "-m", "pip")
    run(*pip, "install", "-q", "--no-index", project, env=env)
    run(*pip, "check", env=env)
    run(python, "-m", "unittest", "-q", "knots.tests.test_knots", cwd=place.mnt, env=env)
    assert run(venv / "bin" / "knots", env=env).out == b"tied\n"
    [package] = venv.glob("lib/python*/site-packages/knots")
    assert len(list((package / "__pycache__").iterdir())) >= 202
    run(python, "-m", "compileall", "-q", "-f", package, env=env)
    run(*pip, "install", "-q", "--no-index", "--force-reinstall", project, env=env)
    run(*pip, "uninstall", "-q", "-y", "knots", env=env)
    assert not package.exists()
    assert list((place.mnt / "tmp").iterdir()) == [], "pip could not remove its temporary files"


def test_a_package_from_the_net_passes_its_own_tests(
    place: Place, full: bool, request: pytest.FixtureRequest
) -> None:
    if not full:
        pytest.skip("needs the net: --full")
    venv: Path = request.getfixturevalue("venv")
    env = environment(place)
    kept = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "HTTPS_PROXY")
    env |= {name: os.environ[name] for name in kept if name in os.environ}
    env.pop("PIP_CONFIG_FILE")
    python = venv / "bin" / "python"
    pip = (python, "-m", "pip")
    run(*pip, "install", "-q", "pytest", "setuptools", "wheel", env=env)
    source = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation")
    run(*pip, "download", "-q", *source, "six==1.16.0", cwd=place.mnt, env=env)
    run("tar", "-xf", "six-1.16.0.tar.gz", cwd=place.mnt)
    run(*pip, "install", "-q", "--no-build-isolation", "./six-1.16.0", cwd=place.mnt, env=env)
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_six.py")
    # -k: needs tkinter, which a Debian Python lacks.
    deselect = ("-k", "not tkinter and not Tkinter and not dbm")
    run(python, *tests, *deselect, cwd=place.mnt / "six-1.16.0", env=env)
