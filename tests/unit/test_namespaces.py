# SPDX-License-Identifier: MIT
"""What forbids namespaces, from the settings of machines that this one is not; and systems without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from xloop import running
from xloop.errors import MountError
from xloop.host import namespaces


def settings(place: Path, **values: str) -> str:
    for name, value in values.items():
        file = place / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(value + "\n")
    return str(place)


def test_settings_that_forbid_nothing(tmp_path: Path) -> None:
    assert namespaces.forbidden_by(str(tmp_path)) is None
    place = settings(
        tmp_path,
        user__max_user_namespaces="96365",
        kernel__unprivileged_userns_clone="1",
        kernel__apparmor_restrict_unprivileged_userns="0",
    )
    assert namespaces.forbidden_by(place) is None


@pytest.mark.parametrize(
    ("file", "value", "named", "allows"),
    [
        ("user__max_user_namespaces", "0", "user.max_user_namespaces", "10000"),
        ("user__max_mnt_namespaces", "0", "user.max_mnt_namespaces", "10000"),
        ("kernel__unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", "1"),
        (
            "kernel__apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns",
            "0",
        ),
    ],
)
def test_the_setting_that_forbids_is_found(
    file: str, value: str, named: str, allows: str, tmp_path: Path
) -> None:
    place = settings(tmp_path, **{file: value})
    assert namespaces.forbidden_by(place) == (named, value, allows)
    # Who may mount needs no user namespace.
    assert bool(namespaces.forbidden_by(place, user=False)) == (named == "user.max_mnt_namespaces")


def test_without_namespaces_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "SUPPORTED", False)
    with pytest.raises(MountError, match="no mount namespaces") as caught:
        running.run(["true"], "/")
    assert "xloop umount" in caught.value.fix
