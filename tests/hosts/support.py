# SPDX-License-Identifier: MIT
"""What the tests of host modules share.  Owns the types of their fixtures."""

from __future__ import annotations

from collections.abc import Callable

#: Runs the in-process contract tests on the host that a plugin makes, but for some files: how many passed,
#: and the names of those that did not.
Run = Callable[..., tuple[int, set[str]]]
