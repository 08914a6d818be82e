# SPDX-License-Identifier: MIT
"""Whether changes of the source are repeated for who watches the mount, and of what parts: :func:`relay_for`.

Owns the conditions.  Does not own the parts: the thread that repeats is in :mod:`.relay`, the server's part in
:mod:`.play`, the way to the mount in :mod:`.reach` and :mod:`.aside`.
"""

from __future__ import annotations

import errno
import os

from xloop.changes import Watch
from xloop.host import namespaces
from xloop.ops import Operations
from xloop.options import MountOptions

from .aside import Aside
from .handlers import Handler
from .passthrough import Passthrough
from .play import Play
from .reach import Reach
from .relay import Relay
from .writers import Writers

__all__ = ["relay_for", "why_not"]


def why_not(options: MountOptions, *, privileged: bool) -> str:
    """Return why nothing can be relayed to a mount with *options*; empty: what is to be seen at once allows it."""
    if options.read_only and not privileged:
        return "on a read-only mount that is not root's the kernel lets nobody repeat a change"
    return options.overheard


def relay_for(
    operations: Operations,
    options: MountOptions,
    watch: Watch,
    table: list[Handler | None],
    passthrough: Passthrough | None,
    connection: int,
    mountpoint: str,
    device: tuple[int, int],
    *,
    own: set[int],
    privileged: bool,
    kernel_checks: bool,
) -> Relay:
    """Return what relays, not started yet.  OSError says why nothing can be relayed.

    *device*: the number of what is mounted at *mountpoint*.  *own*: the threads that serve.  *kernel_checks*: who may
    read what there, and so who may hear of it.
    """
    why = why_not(options, privileged=privileged)
    if not why and not kernel_checks and os.geteuid() != 0 and not watch.by_directory:
        # A user with a capability.  By directory the source refuses what he may not read.
        why = (
            f"{watch.how} tells this server what its user may not read, and he would hear all of it"
        )
    if not why and not watch.of_others:
        refused = watch.status().get("refused", "")
        why = f"{watch.how} does not tell who has changed something ({refused})"
    if why:
        raise OSError(errno.EOPNOTSUPP, why)
    aside = None
    if not privileged:
        try:
            aside = Aside(mountpoint, device)
        except OSError as exc:
            forbidden = namespaces.forbidden_by()
            why = f"the mount cannot be reached by a user namespace: {exc.strerror or exc}"
            if forbidden is not None:
                why += f" ({forbidden[0]} is {forbidden[1]})"
            raise OSError(exc.errno or errno.EIO, why) from exc
    st_dev = os.makedev(*device)
    writers = None
    if passthrough is not None:
        writers = Writers(passthrough, st_dev, watch.recall, operations.forget)
    play = Play(operations, options, passthrough, connection, table, watch.recall)
    reach = Reach(play, watch, mountpoint, st_dev, aside)
    return Relay(operations, watch, play, reach, writers, connection, own=own)
