# SPDX-License-Identifier: MIT
"""Which backend a name means, without mounting anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xloop import registry
from xloop.backend import Availability
from xloop.errors import BackendUnavailable

BACKENDS = """
from xloop.backend import Availability

class Good:
    name = "good"
    def probe(self): return Availability(True)
    def check_options(self, options): pass
    def mount(self, operations, mountpoint, options): raise NotImplementedError

class Bad(Good):
    name = "bad"
    def probe(self): return Availability(False, "the moon is full", "wait a night")

class Other(Good):
    name = "other"

class Unmade(Good):
    def __init__(self): raise RuntimeError("no hands")

nothing = object()
"""


@pytest.fixture
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Classes to be bundled or found as entry points, in a module of their own."""
    (tmp_path / "sample_backends.py").write_text(BACKENDS)
    for name in ("Good", "Bad", "Other"):
        (tmp_path / f"sample_{name.lower()}.py").write_text(
            f"from sample_backends import {name} as backend\n"
        )
    (tmp_path / "sample_broken.py").write_text("import a_module_that_is_not_there\n")
    info = tmp_path / "samples-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samples\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\n"
        "good = sample_backends:Bad\n"  # takes over a bundled name, or tries to
        "foreign = sample_backends:Other\n"
        "missing = sample_backends:NotThere\n"
        "broken = sample_broken:backend\n"
        "unmade = sample_backends:Unmade\n"
        "nothing = sample_backends:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("sample_")]:
        del sys.modules[name]


def bundle(monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    monkeypatch.setattr(registry, "_BUNDLED", {sys.platform: modules, "elsewhere": {"far": "x"}})


pytestmark = pytest.mark.usefixtures("backends")


def test_auto_takes_the_first_that_can_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad", good="sample_good", other="sample_other")
    assert registry.choose("auto").name == "good"


def test_auto_tells_why_it_passed_the_better_ones_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad", broken="sample_broken", good="sample_good", other="x")
    over: list[BackendUnavailable] = []
    assert registry.choose(passed_over=over).name == "good"
    assert over[0].why == "backend 'bad' cannot mount here: the moon is full"
    assert "a_module_that_is_not_there" in over[1].why
    assert len(over) == 2


def test_auto_gives_the_reason_of_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad")
    with pytest.raises(BackendUnavailable) as info:
        registry.choose()
    assert info.value.why == "backend 'bad' cannot mount here: the moon is full"
    assert info.value.fix == "wait a night"


def test_auto_gives_the_reasons_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad", broken="sample_broken")
    with pytest.raises(BackendUnavailable) as info:
        registry.choose()
    assert info.value.why.startswith("no backend can mount here: ")
    assert "the moon is full" in info.value.why
    assert "a_module_that_is_not_there" in info.value.why
    assert "wait a night" in info.value.fix


def test_a_system_without_backends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch)
    with pytest.raises(BackendUnavailable, match=f"no backend for {sys.platform} yet"):
        registry.choose()


def test_a_name_is_used_or_refused_and_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad", good="sample_good")
    with pytest.raises(BackendUnavailable, match="'bad' cannot mount here: the moon is full"):
        registry.choose("bad")


def test_an_entry_point_adds_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, good="sample_good")
    assert registry.choose("foreign").name == "other"


def test_an_entry_point_cannot_take_over_a_bundled_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, good="sample_good")
    assert registry.choose("good").name == "good"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "NotThere"),
        ("broken", "a_module_that_is_not_there"),
        ("unmade", "cannot be loaded: RuntimeError: no hands"),
        ("nothing", "probe"),
    ],
)
def test_a_foreign_backend_that_is_broken_says_how(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(monkeypatch, good="sample_good")
    with pytest.raises(BackendUnavailable, match=reason) as info:
        registry.choose(name)
    assert f"'{name}'" in info.value.why


def test_one_that_cannot_mount_for_one_command_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle(monkeypatch, good="sample_good")
    for name in ("good", "auto"):
        with pytest.raises(BackendUnavailable, match="cannot be served from outside"):
            registry.choose_private(name)


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, good="sample_good")
    with pytest.raises(BackendUnavailable) as info:
        registry.choose("goood")
    assert "no backend 'goood'; did you mean 'good'?" in info.value.why
    assert "foreign" in info.value.fix


def test_a_backend_of_another_system_is_known_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, good="sample_good")
    with pytest.raises(BackendUnavailable, match=f"'far' is for elsewhere, this is {sys.platform}"):
        registry.choose("far")


def test_available_tells_of_each_bundled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, bad="sample_bad", good="sample_good", broken="sample_broken")
    states = registry.available()
    assert states["good"] == Availability(True)
    assert states["bad"] == Availability(False, "the moon is full", "wait a night")
    assert not states["broken"].ok


def test_entry_points_are_not_looked_for_when_a_bundled_backend_is_wanted() -> None:
    program = (
        "import sys; from xloop import registry\n"
        "registry._BUNDLED = {sys.platform: {'good': 'sample_good'}}\n"
        "assert registry.choose().name == registry.choose('good').name == 'good'\n"
        "sys.exit('importlib.metadata' in sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"], check=False
    )
    assert ended.returncode == 0
