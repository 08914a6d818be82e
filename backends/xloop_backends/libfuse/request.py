# SPDX-License-Identifier: MIT
"""What is known of a request beside what libfuse passes on.  Owns the record, a thread each, and no more."""

from __future__ import annotations

import threading

from xloop.types import Caller

__all__ = ["Request"]


class Request(threading.local):
    """The request that this thread is carrying out, as it came from the kernel."""

    def __init__(self) -> None:
        self.opcode = 0
        self.caller = Caller(0, 0, 0)
        self.body = 0  #: address of what follows the header
        self.size = 0  #: of the body
        self.node = 0  #: the library's number of what it is about
        #: An error to answer with at once.
        self.refused = 0
        #: A SETATTR that was carried out already, as a whole.
        self.changed = False
        #: It is about a file with several names: Terms.distrust().
        self.distrusts = False
