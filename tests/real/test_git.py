# SPDX-License-Identifier: MIT
"""git works inside a mount: commit, clone, branches, garbage collection, several at once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from real.conftest import Place
from real.support import (
    Arg,
    Finished,
    assert_same_tree,
    clean_environment,
    need,
    read_tree,
    run,
    run_together,
)

NAME = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


@pytest.fixture(autouse=True)
def _git_is_there() -> None:
    need("git")


def command(*arguments: Arg) -> list[Arg]:
    return ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *arguments]


def git(where: Path, *arguments: Arg, status: tuple[int, ...] = (0,)) -> Finished:
    """Run git in *where*, with nobody's settings."""
    return run(*command(*arguments), cwd=where, env=clean_environment(**NAME), status=status)


def fill(top: Path, files: int, seed: int) -> None:
    """Write *files* files of some kinds: text, binary, executable, empty, symbolic links."""
    rng = random.Random(seed)
    for number in range(files):
        directory = top / f"d{rng.randrange(12)}" / f"e{rng.randrange(5)}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file {seed} {number}.txt"
        if number % 17 == 0:
            path.symlink_to(f"file {seed} {number + 1}.txt")
            continue
        lines = [f"line {rng.random()}\n" for _ in range(rng.randrange(200))]
        path.write_text("".join(lines))
        if number % 5 == 0:
            path.chmod(0o755)
        if number % 29 == 0:
            path.write_bytes(rng.randbytes(100_000))


@pytest.fixture
def repository(place: Place) -> Path:
    """A repository with three commits inside the mount."""
    where = place.mnt / "repository"
    where.mkdir()
    git(where, "init", "-q")
    for seed in range(3):
        fill(where, 80, seed)
        git(where, "add", "-A")
        git(where, "commit", "-qm", f"commit {seed}")
    return where


def assert_sound(where: Path) -> None:
    """Fail unless git finds nothing to complain about."""
    assert git(where, "status", "--porcelain").out == b""
    git(where, "fsck", "--full", "--strict", "--no-dangling")


def test_git_clones_and_finds_the_clone_sound(place: Place, repository: Path) -> None:
    assert_sound(repository)
    clones = {"links": ["--local"], "copies": ["--no-hardlinks"], "wire": ["--no-local"]}
    for name, how in clones.items():
        git(place.mnt, "clone", "-q", *how, repository, name)
        assert_sound(place.mnt / name)
        assert (
            git(place.mnt / name, "log", "--format=%H").out
            == git(repository, "log", "--format=%H").out
        )


def test_git_gc_keeps_everything(repository: Path) -> None:
    before = git(repository, "rev-list", "--objects", "--all").out
    git(repository, "gc", "-q", "--aggressive", "--prune=now")
    assert_sound(repository)
    assert git(repository, "rev-list", "--objects", "--all").out == before
    objects = repository / ".git" / "objects"
    loose = [d for d in os.listdir(objects) if len(d) == 2]
    assert loose == [], "gc could not remove loose objects"
    git(repository, "repack", "-adq")
    git(repository, "verify-pack", *objects.glob("pack/*.idx"))


def test_git_switches_between_branches_and_back(repository: Path) -> None:
    first = read_contents(repository)
    git(repository, "checkout", "-q", "-b", "old", "HEAD~2")
    fill(repository, 60, 99)
    (repository / "d1").rename(repository / "moved")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "another")
    git(repository, "stash", "-q", status=(0, 1))
    git(repository, "checkout", "-q", "main")
    assert read_contents(repository) == first
    git(repository, "merge", "-q", "-s", "ours", "-m", "merge", "old")
    git(repository, "worktree", "add", "-q", "../tree", "old")
    assert_sound(repository.parent / "tree")
    git(repository, "worktree", "remove", "../tree")
    git(repository, "clean", "-qdfx")
    assert_sound(repository)


def read_contents(top: Path) -> dict[bytes, str]:
    """Return what git keeps of a work tree: contents and symbolic links."""
    tree = read_tree(top)
    return {
        name: facts.data
        for name, facts in tree.items()
        if facts.size is not None and not name.startswith(b".git/")
    }


def test_a_clone_made_in_the_mount_is_good_on_the_source(place: Place, repository: Path) -> None:
    if place.mount is None:
        pytest.skip("a native run has no other side")
    git(place.mnt, "clone", "-q", "--no-hardlinks", repository, "clone")
    assert_same_tree(read_tree(place.mnt / "clone"), read_tree(place.source / "clone"))
    assert_sound(place.source / "clone")


def test_several_git_processes_commit_at_once(place: Place, repository: Path) -> None:
    """Each work tree has its own index; refs and objects are shared, and locked by O_EXCL and rename."""
    trees = [place.mnt / f"tree{number}" for number in range(3)]
    for tree in trees:
        git(repository, "worktree", "add", "-q", "-b", tree.name, tree)
    script = """
        set -e
        for i in $(seq 10); do
            echo "$PWD $i" > "new $i"
            git add -A
            git commit -qm "commit $i"
            git tag "$(basename "$PWD")-$i"
        done
    """
    run_together(
        [["sh", "-c", f"cd '{tree}' && {script}"] for tree in trees],
        env=clean_environment(**NAME),
    )
    assert_sound(repository)
    for tree in trees:
        assert git(tree, "rev-list", "--count", "HEAD").out.strip() == b"13"
    assert len(git(repository, "tag").out.split()) == 30
