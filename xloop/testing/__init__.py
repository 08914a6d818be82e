# SPDX-License-Identifier: MIT
"""The kit that xloop is tested with, for file systems and backends of one's own too.

Owns trees (a directory as a program sees it, through the kernel or without one), the comparison of
two of them, and the books on an Operations.  Free of pytest, and imported by nothing in xloop.

    with_kernel = NativeTree("/mnt/view")
    without = InProcessTree(MyFileSystem())
    Pair(without, NativeTree("/tmp/twin")).same(lambda t: t.make(b"a", b"data"))
    without.shut()
    without.check_balanced()
"""

from xloop.testing.inprocess import InProcessTree
from xloop.testing.ledger import ContractBroken, Ledger
from xloop.testing.native import NativeTree
from xloop.testing.pair import Each, Pair
from xloop.testing.tree import LONG_AGO, Facts, Held, Name, Pending, Tree, facts

__all__ = [
    "LONG_AGO",
    "ContractBroken",
    "Each",
    "Facts",
    "Held",
    "InProcessTree",
    "Ledger",
    "Name",
    "NativeTree",
    "Pair",
    "Pending",
    "Tree",
    "facts",
]
