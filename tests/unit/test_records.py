# SPDX-License-Identifier: MIT
"""The records of mounts, without a mount: what is believed, what is removed, who may not be in the way."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from xloop import records
from xloop.host import runtime
from xloop.host.mounttable import MountEntry
from xloop.records import Record

RECORD = Record(
    (0, 4095), "/mnt", "/srv", "fuse.xloop", "devfuse", "ro", 1.5, 7, os.geteuid(), True
)
ENTRY = MountEntry(1, 0, (0, 4095), "/mnt", "fuse.xloop", "/srv", os.geteuid())

pytestmark = pytest.mark.skipif(not runtime.CAN_LISTEN, reason="nobody listens on this system")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "xloop"


def found() -> Record | None:
    one = records.find(ENTRY)
    return one.record if one is not None else None


def test_a_record_is_found_until_it_is_closed(place: Path) -> None:
    kept = records.keep(RECORD)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert found() == RECORD
    kept.close()
    assert found() is None
    assert list(place.iterdir()) == []


def test_a_record_without_a_server_is_removed_by_who_meets_it(place: Path) -> None:
    kept = records.keep(RECORD)
    kept.listener.close()  # as the end of the process does
    assert {path.name for path in place.iterdir()} == {"0-4095.json", "0-4095.sock"}
    assert found() is None
    assert list(place.iterdir()) == []


def test_the_number_of_a_mount_that_is_gone_is_used_again(place: Path) -> None:
    first = records.keep(RECORD)
    first.listener.close()
    second = records.keep(RECORD._replace(mountpoint="/new"))
    first.close()  # at last; it must not take the other one's files
    one = found()
    assert one is not None
    assert one.mountpoint == "/new"
    second.close()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"device": 1}',
        json.dumps(RECORD._asdict() | {"device": ["a", 1]}),
        json.dumps(RECORD._asdict() | {"since": "x"}),
        json.dumps(RECORD._asdict() | {"pid": 1e400}),
        "[" * 30000,
        json.dumps(RECORD._asdict() | {"source": "x" * 70000}),
        "\xff",
    ],
)
def test_what_is_no_record_is_not_believed(text: str, place: Path) -> None:
    kept = records.keep(RECORD)
    (place / "0-4095.json").write_text(text, encoding="latin-1")
    assert found() is None
    kept.close()


def test_a_record_is_a_file_and_no_link_or_pipe(place: Path, tmp_path: Path) -> None:
    kept = records.keep(RECORD)
    path = place / "0-4095.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert found() is None
    path.unlink()
    os.mkfifo(path)
    assert found() is None
    kept.close()


def test_a_record_of_somebody_elses_mount_is_not_believed(place: Path) -> None:
    kept = records.keep(RECORD)
    assert records.find(ENTRY._replace(owner=os.geteuid() + 1)) is None
    assert records.find(ENTRY._replace(owner=None)) is not None
    assert records.find(ENTRY._replace(device=(0, 4094))) is None
    kept.close()


def test_a_directory_that_others_may_enter_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "places", lambda: [str(place)])
    kept = records.keep(RECORD)
    place.chmod(0o755)
    assert found() is None
    with pytest.raises(OSError, match="0755, which lets others in"):
        records.keep(RECORD)
    place.chmod(0o700)
    kept.close()
    place.rename(place.parent / "real")
    place.symlink_to("real")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        records.keep(RECORD)


def test_a_runtime_directory_that_is_not_private_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    for given in (str(tmp_path), "relative", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        (path,) = runtime.places()
        assert os.path.isabs(path)
        assert path.endswith("/xloop")
        assert not path.startswith(str(tmp_path))
