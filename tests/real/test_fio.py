# SPDX-License-Identifier: MIT
"""fio writes, reads back and verifies inside a mount, in several ways at once."""

from __future__ import annotations

import pytest

from real.conftest import Place
from real.support import need, run

#: Each way to do I/O, by the options of fio that make it.
WAYS = {
    "pwrite": ["--ioengine=psync"],
    "mmap": ["--ioengine=mmap"],
    "vectors": ["--ioengine=pvsync2"],
    "direct": ["--ioengine=psync", "--direct=1"],
    "aio": ["--ioengine=libaio", "--iodepth=16", "--direct=1"],
    "fallocate": ["--ioengine=psync", "--fallocate=posix"],
    "fsync": ["--ioengine=psync", "--fdatasync=64"],
    "uneven": ["--ioengine=psync", "--bsrange=512-65536", "--blockalign=512"],
}


@pytest.mark.parametrize("way", WAYS)
def test_fio_verifies_what_it_wrote(place: Place, way: str) -> None:
    need("fio")
    run(
        *("fio", "--name=verify", f"--directory={place.mnt}", "--rw=randwrite", "--bs=4k"),
        *("--size=4m", "--numjobs=3", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"),
        *("--verify_state_save=0", "--group_reporting", *WAYS[way]),
        cwd=place.mnt,
    )
