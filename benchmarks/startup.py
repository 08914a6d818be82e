# SPDX-License-Identifier: MIT
"""What the start of a mount costs, beside what Python itself needs to start.

Owns the measurement and its table.  Asserts nothing: tests/real/test_startup.py counts modules,
which is exact where a time is noisy.

    python benchmarks/startup.py [--rounds N] [--imports N] [--json]

The ways alternate, and medians are shown, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

LIBRARY = """
import os, sys, time
start = time.perf_counter()
import xloop
mount = xloop.mount(sys.argv[1], sys.argv[2])
os.stat(sys.argv[2])
print(time.perf_counter() - start)
mount.unmount()
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Ways:
    """What is timed; each method returns seconds."""

    def __init__(self, source: Path, mountpoint: Path) -> None:
        self.source, self.mountpoint = str(source), str(mountpoint)

    def python(self) -> float:
        """python -c pass"""
        return timed(lambda: run(sys.executable, "-c", "pass"))

    def import_xloop(self) -> float:
        """python -c 'import xloop'"""
        return timed(lambda: run(sys.executable, "-c", "import xloop"))

    def version(self) -> float:
        """xloop --version"""
        return timed(lambda: run(sys.executable, "-m", "xloop", "--version"))

    def mount(self) -> float:
        """xloop mount, until it has returned and the mount answers"""
        seconds = timed(self._mount)
        run(sys.executable, "-m", "xloop", "umount", self.mountpoint)
        return seconds

    def _mount(self, **environment: str) -> str:
        command = (sys.executable, "-m", "xloop", "mount", self.source, self.mountpoint)
        said = run(*command, **environment).stderr
        os.stat(self.mountpoint)
        return said

    def library(self) -> float:
        """import xloop; xloop.mount(), in a program that runs already"""
        return float(run(sys.executable, "-c", LIBRARY, self.source, self.mountpoint).stdout)

    def imports(self) -> list[tuple[float, str]]:
        """Return what each module that `xloop mount` imports costs by itself, in milliseconds."""
        said = self._mount(PYTHONPROFILEIMPORTTIME="1")
        run(sys.executable, "-m", "xloop", "umount", self.mountpoint)
        costs = []
        for line in said.splitlines():
            head, _, rest = line.partition("import time:")
            own, _, name = rest.partition("|")
            if not head and own.strip().isdigit():
                costs.append((int(own) / 1000, name.rpartition("|")[2].strip()))
        return sorted(costs, reverse=True)


def measure(ways: Ways, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median and the least of each way, in milliseconds."""
    calls = (ways.python, ways.import_xloop, ways.version, ways.mount, ways.library)
    seconds: dict[str, list[float]] = {str(call.__doc__): [] for call in calls}
    for _ in range(rounds + 1):
        for call in calls:
            seconds[str(call.__doc__)].append(call())
    # The first round fills the caches of the disk.
    return {n: (median(t[1:]) * 1000, min(t[1:]) * 1000) for n, t in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--imports", type=int, default=15, help="how many modules are listed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xloop-startup-") as top:
        source, mountpoint = Path(top, "source"), Path(top, "mnt")
        source.mkdir()
        mountpoint.mkdir()
        ways = Ways(source, mountpoint)
        times = measure(ways, arguments.rounds)
        imports = ways.imports()
    if arguments.json:
        costs = {name: cost for cost, name in imports}
        print(json.dumps({"median and least in ms": times, "imports": costs}, indent=2))  # noqa: T201
        return
    python, _ = next(iter(times.values()))
    print("  median       least      beyond Python")  # noqa: T201
    for name, (middle, least) in times.items():
        print(f"{middle:7.1f} ms  {least:7.1f} ms  {middle - python:+7.1f} ms   {name}")  # noqa: T201
    total = sum(cost for cost, _ in imports)
    print(f"\n{len(imports)} modules are imported by xloop mount, in {total:.1f} ms; the dearest:")  # noqa: T201
    for cost, name in imports[: arguments.imports]:
        print(f"{cost:8.1f} ms   {name}")  # noqa: T201


if __name__ == "__main__":
    main()
