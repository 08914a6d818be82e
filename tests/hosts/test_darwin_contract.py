# SPDX-License-Identifier: MIT
"""The loopback on the macOS host keeps the contract, as far as Linux can play macOS's C library."""

from __future__ import annotations

import pytest

from .support import Run

#: What macOS cannot do, or does not tell: the contract tests that show it.
DIFFERENT = {
    "test_every_mode_does_what_it_does_natively": "fallocate: no zeroing, collapsing, inserting",
    "test_an_unlinked_fifo_stays_a_fifo": "a FIFO is held by its name: opening it would act on it",
    "test_whiteout_leaves_a_whiteout_or_is_refused": "refused before the source is asked",
    "test_a_tmpfile_has_no_name": "no O_TMPFILE",
    "test_a_tmpfile_gets_a_name_by_link": "no O_TMPFILE",
    "test_a_tmpfile_with_o_excl_never_gets_a_name": "no O_TMPFILE",
    "test_a_tmpfile_has_the_mode_less_the_umask": "no O_TMPFILE",
    "test_links_and_special_files_have_no_user_attributes": "EPERM where Linux says ENODATA",
}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_contract_is_kept_but_for_what_is_listed(contract: Run) -> None:
    passed, broken = contract("darwin_on_linux")
    assert broken == set(DIFFERENT)
    assert passed > 600
