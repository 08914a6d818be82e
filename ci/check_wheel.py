# SPDX-License-Identifier: MIT
"""Check that a wheel holds all files of the packages and the manual page, and nothing else: check_wheel.py WHEEL."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"xloop": ROOT, "xloop_backends": ROOT / "backends"}


def main(wheel: str) -> int:
    """Return 1, and say what is wrong, unless *wheel* and the checkout agree."""
    expected = {
        path.relative_to(above).as_posix()
        for package, above in PACKAGES.items()
        for path in (above / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected.add("share/man/man1/xloop.1")
    with zipfile.ZipFile(wheel) as archive:
        # What is installed outside of Python's packages lies in NAME-VERSION.data/data.
        found = {
            name.partition(".data/data/")[2] or name
            for name in archive.namelist()
            if ".dist-info/" not in name
        }
    for name in sorted(expected - found):
        sys.stderr.write(f"not in the wheel: {name}\n")
    for name in sorted(found - expected):
        sys.stderr.write(f"only in the wheel: {name}\n")
    missing = [name for name in ("xloop/py.typed", "xloop_backends/py.typed") if name not in found]
    if missing:
        sys.stderr.write(f"type checkers need {', '.join(missing)}\n")
    return 1 if missing or expected != found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
