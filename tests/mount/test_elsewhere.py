# SPDX-License-Identifier: MIT
"""A mount of which another mount namespace has a copy, and that the tests' own books allow for it."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from elsewhere import holders

Spot = Any

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a mount namespace"),
]


def test_a_copy_in_another_namespace_is_served_until_it_is_gone(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo copied; read x"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "copied\n"
        # The shell, not unshare, which has become it.  Others that run at the same time may make namespaces too.
        assert other.pid in holders(spot.top)
        server = spot.server()
        subprocess.run(["umount", spot.mnt], check=True)
        seen = f"/proc/{other.pid}/root{spot.mnt}/file"
        with open(seen) as file:
            assert file.read() == "content\n"
        assert spot.servers() == [server]
        other.communicate("\n")
    assert spot.alone()
    assert other.pid not in holders(spot.top)
