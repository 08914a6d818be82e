# SPDX-License-Identifier: MIT
"""The differential test finds bugs: each that is planted, in process, within a bounded number of steps.

Without any it stays silent: that is test_differential's subject "inprocess".
"""

from __future__ import annotations

import pytest

from differential.conftest import Staged
from differential.driver import Found, drive, replay
from differential.planted import PLANTED
from differential.subjects import ROOT, SUBJECTS

#: It takes other users, who see and own things that are not the server's.
_FOR_ROOT = {"TruncatesByName", "SetIdSurvives", "SetIdSurvivesChown", "StaleNameAfterRename"}
#: Steps.  Each was found within a tenth of it.
_ENOUGH = 20000


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str, staged: Staged) -> None:
    if not ROOT and bug in _FOR_ROOT:
        pytest.skip("needs root: who is always oneself cannot be mistaken for somebody else")
    subject = next(subject for subject in SUBJECTS if subject.name == "inprocess")
    with (
        pytest.raises(Found) as found,
        staged(subject, make=PLANTED[bug]) as stage,
    ):
        drive(subject, stage, _ENOUGH, seed=1, shrink=False)
    print(found.value.args[0].partition("\n\n")[0])
    # And it was the bug: without it the same steps show nothing.
    with staged(subject) as stage:
        replay(subject, stage, found.value.steps)
