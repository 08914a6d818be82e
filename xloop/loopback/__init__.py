# SPDX-License-Identifier: MIT
"""A directory of this machine as a file system: :class:`Loopback`.

Owns nothing itself: it puts the parts together.  What each does is in its module: names, attrs,
data, dirs, xattrs, locks; what they share is in base.

**Confinement.**  A name is resolved against a descriptor of its directory, one component at a time
and without following symbolic links; no path is ever put together.  Whatever others do to
the source meanwhile, what is reached was found below its root.
"""

from __future__ import annotations

from xloop.loopback.attrs import Attrs
from xloop.loopback.data import Data
from xloop.loopback.dirs import Dirs
from xloop.loopback.names import Names
from xloop.loopback.xattrs import Xattrs

__all__ = ["Loopback"]


class Loopback(Names, Attrs, Data, Dirs, Xattrs):
    """The directory *source* as an :class:`~xloop.ops.Operations`.

    Subclass it to change what some operations do::

        class NoDelete(xloop.Loopback):
            def unlink(self, caller, parent, name):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    """
