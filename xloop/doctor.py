# SPDX-License-Identifier: MIT
"""What is wrong, and the exact command that puts it right: :func:`diagnose`.

Owns the findings.  Does not own whether a backend can mount: its ``probe()`` says so, with what it
*needs*; nor what is known (:mod:`xloop.machine`), what installs something (:mod:`xloop.remedies`) or how
findings look (:mod:`xloop.cli.doctor`).

Everything is a function of :class:`~xloop.machine.Facts`, so that what is said on one system can be
tested on every other.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from xloop import __version__
from xloop.backend import Availability
from xloop.host.mounttable import MountEntry
from xloop.machine import Facts, Point, Server, Stale, gather, inspect
from xloop.mounts import PATIENCE, Health, by_system, command
from xloop.remedies import ADVICE, as_root, install

__all__ = ["Facts", "Finding", "Report", "diagnose", "gather", "inspect", "install"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    kind: str  #: "backend", "machine", "mount" or "mountpoint"
    name: str
    ok: bool
    #: What is not as it should be.
    why: str = ""
    #: What to type, line by line; nothing where no command would do.
    commands: tuple[str, ...] = ()
    #: What else there is to be done.
    advice: str = ""
    #: What is known of it.
    detail: str = ""
    #: It must be put right; False: it may stay as it is, and somebody may want to know.
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and what follows from them."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def uses(self) -> str | None:
        """The backend that ``xloop mount`` takes by itself; None: it cannot mount."""
        fit = (f.name for f in self.findings if f.kind == "backend" and f.ok)
        return next(fit, None)

    @property
    def ok(self) -> bool:
        """Whether all is well: with the one mountpoint that was asked about, or with the machine."""
        can_mount = self.facts.point is not None or self.uses is not None
        return can_mount and not any(finding.wrong for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "system": self.facts.system,
            "distribution": self.facts.os_release.get("PRETTY_NAME"),
            "python": self.facts.python,
            "ok": self.ok,
            "uses": self.uses,
            "mountpoint": self.facts.point.path if self.facts.point is not None else None,
            "findings": [
                {
                    "kind": finding.kind,
                    "name": finding.name,
                    "ok": finding.ok,
                    "why": finding.why,
                    "commands": list(finding.commands),
                    "advice": finding.advice,
                    "detail": finding.detail,
                    "wrong": finding.wrong,
                }
                for finding in self.findings
            ],
        }

    def lines(self) -> list[str]:
        """Return the report for people."""
        if self.facts.point is not None:
            return [self.facts.point.path, *_table(self.findings)]
        where = self.facts.os_release.get("PRETTY_NAME") or _SYSTEMS.get(self.facts.system, "")
        lines = [f"xloop {__version__} on {where or self.facts.system}"]
        for _, findings in groupby(self.findings, lambda finding: finding.kind):
            lines += _table(tuple(findings))
        if self.uses is not None:
            lines.append(f"xloop mount uses {self.uses}.")
        elif self.findings:
            lines.append("xloop cannot mount here: one of the above must be put right.")
        else:
            lines.append("xloop has no backend for this system.")
        return lines


def _table(findings: tuple[Finding, ...]) -> Iterator[str]:
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        yield f"{finding.name:{width}}  {_state(finding)}"
        said = [f"$ {command}" for command in finding.commands] + finding.advice.splitlines()
        for line in said:
            yield f"{'':{width}}    {line}"


def _state(finding: Finding) -> str:
    if finding.kind != "backend":
        return ": ".join(filter(None, (finding.detail, finding.why)))
    if finding.ok:
        return f"can mount ({finding.detail})" if finding.detail else "can mount"
    return f"cannot mount: {finding.why}"


_SYSTEMS: Final = {
    "linux": "Linux",
    "darwin": "macOS",
    "freebsd": "FreeBSD",
    "win32": "Windows",
}


def diagnose(facts: Facts) -> Report:
    """Return what there is to say about *facts*."""
    if facts.point is not None:
        return Report(facts, tuple(_point(facts.point, facts)))
    found = [
        *(_backend(name, state, facts) for name, state in facts.backends.items()),
        *_machine(facts),
        *(_stale(stale, facts) for stale in facts.stale),
    ]
    # What two things need is to be typed once.
    typed: set[str] = set()
    findings = []
    for finding in found:
        commands = tuple(command for command in finding.commands if command not in typed)
        typed.update(commands)
        findings.append(replace(finding, commands=commands))
    return Report(facts, tuple(findings))


def _backend(name: str, state: Availability, facts: Facts) -> Finding:
    if state.ok:
        return Finding("backend", name, True, detail=state.version)
    commands = install(state.needs, facts) if state.needs else ()
    # The backend's own words know no distribution: they are for where we know no command.
    advice = ADVICE.get(state.needs, "") if commands else state.fix
    if state.needs == "fuse-device" and facts.system == "linux":
        advice = "In a container, give it the device instead: --device /dev/fuse"
    return Finding("backend", name, False, state.why, commands, advice)


# -- the machine ----------------------------------------------------------------------------


def _machine(facts: Facts) -> Iterator[Finding]:
    yield from _kernel(facts)
    yield from _device(facts)
    yield from _helper(facts)
    yield from _config(facts)
    for name, version in facts.packages.items():
        yield Finding("machine", name, True, detail=version)


def _kernel(facts: Facts) -> Iterator[Finding]:
    kernel = facts.kernel
    if kernel is None:
        return
    if kernel.protocol is None:
        detail = f"Linux {kernel.release}; its FUSE cannot be asked ({kernel.why})"
    else:
        has = "with passthrough" if kernel.passthrough else "without passthrough"
        detail = f"Linux {kernel.release}, FUSE {kernel.protocol[0]}.{kernel.protocol[1]}, {has}"
    slow = kernel.protocol is not None and not kernel.passthrough
    yield Finding(
        "machine",
        "kernel",
        not slow,
        advice="Passthrough, which makes reading and writing as fast as without xloop, needs Linux 6.9."
        if slow
        else "",
        detail=detail,
    )
    mounts = "mounts directly, and may use passthrough" if kernel.may_mount else "not this user's"
    yield Finding("machine", "CAP_SYS_ADMIN", True, detail=mounts)
    if kernel.no_namespaces is not None:
        yield Finding(
            "machine",
            "user namespaces",
            not kernel.no_namespaces,
            kernel.no_namespaces,
            detail="not for ordinary users" if kernel.no_namespaces else "for everybody",
        )


def _device(facts: Facts) -> Iterator[Finding]:
    if facts.device is None:
        return  # the backend says so
    for_all = facts.device.mode & 0o006 == 0o006
    yield Finding(
        "machine",
        "/dev/fuse",
        for_all,
        "" if for_all else "only root may open it, so only root can mount",
        () if for_all else (as_root("chmod 666 /dev/fuse", facts),),
        "" if for_all else "It grants nothing by itself. udev sets it at boot.",
        detail=f"mode {facts.device.mode:o}",
        wrong=not facts.device.may_open,
    )


def _helper(facts: Facts) -> Iterator[Finding]:
    helper, kernel = facts.helper, facts.kernel
    if helper is None:
        return
    # Who may mount directly needs none.
    needed = not (kernel is not None and kernel.may_mount)
    if helper.path is None:
        yield Finding(
            "machine",
            "fusermount3",
            False,
            "not installed, so only root can mount",
            install("fuse3", facts),
            wrong=needed,
        )
    elif not helper.set_uid:
        chown = shlex.join(["chown", "root", helper.path])
        chmod = shlex.join(["chmod", "u+s", helper.path])
        yield Finding(
            "machine",
            "fusermount3",
            False,
            "not set-user-ID root, so only root can mount",
            (as_root(chown, facts), as_root(chmod, facts)),
            "Or reinstall it. On a file system that is mounted nosuid neither helps.",
            detail=helper.path,
            wrong=needed,
        )
    elif kernel is not None and kernel.no_new_privileges:
        yield Finding(
            "machine",
            "fusermount3",
            False,
            "without effect here: set-user-ID programs gain nothing (no_new_privs)",
            advice="A sandbox, or NoNewPrivileges= of a systemd unit, set that: mount outside of it.",
            detail=helper.path,
            wrong=needed,
        )
    else:
        yield Finding("machine", "fusermount3", True, detail=f"{helper.path}, set-user-ID root")


def _config(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config is None:
        return
    name = "/etc/fuse.conf"
    if config.error:
        advice = "fusermount3 reads it as root, and does as it says."
        yield Finding(
            "machine", name, True, detail=f"cannot be read ({config.error})", advice=advice
        )
        return
    allowed = "" if config.user_allow_other else "not "
    full = facts.users_mounts >= config.mount_max
    ways = []
    if full:
        ways.append(f"Unmount some, or write there: mount_max = {2 * config.mount_max}")
    if not config.user_allow_other:
        line = "sh -c 'echo user_allow_other >> /etc/fuse.conf'"
        ways.append(f"To allow it: {as_root(line, facts)}")
    yield Finding(
        "machine",
        name,
        not full,
        f"users have {facts.users_mounts}, and so no more" if full else "",
        advice="\n".join(ways),
        detail=f"users may {allowed}say allow_other, and have {config.mount_max} mounts at most",
        wrong=full and not facts.root,
    )


# -- mounts ---------------------------------------------------------------------------------


def _is_ours(entry: MountEntry) -> bool:
    return entry.fstype == "fuse.xloop"


def _is_of_others(entry: MountEntry, facts: Facts) -> bool:
    return entry.owner is not None and entry.owner != facts.uid


def _unmounting(entry: MountEntry, facts: Facts, *, lazy: bool = False) -> str:
    """Return the command that takes *entry* away, for this user."""
    if _is_ours(entry):
        line = command("umount", *(["--lazy"] if lazy else []), entry.mountpoint)
    elif facts.root:
        line = command(*(["-l"] if lazy else []), entry.mountpoint, program="umount")
    else:
        line = by_system(entry.mountpoint, lazy=lazy)
    return as_root(line, facts) if _is_of_others(entry, facts) else line


def _stale(stale: Stale, facts: Facts) -> Finding:
    entry = stale.entry
    dead = stale.health is Health.DEAD
    return Finding(
        "mount",
        entry.mountpoint,
        False,
        _HEALTH[stale.health],
        (_unmounting(entry, facts) if dead else command("doctor", entry.mountpoint),),
        "" if dead else "It says who serves it, and what can be done.",
        detail=f"{entry.fstype} of {entry.source!r}",
        # Those of others are for others to put right.
        wrong=_is_ours(entry),
    )


_HEALTH: Final = {
    Health.DEAD: f"dead ({Health.DEAD.value}): its server ended without unmounting it",
    Health.HANGS: f"hangs: it did not answer for {PATIENCE:g} seconds",
}


def _point(point: Point, facts: Facts) -> Iterator[Finding]:
    """Yield what is to be said of one mountpoint."""

    def finding(name: str, ok: bool, why: str = "", **more: Any) -> Finding:
        return Finding("mountpoint", name, ok, why, **more)

    entry = point.entry
    if entry is None:
        why = point.why.removeprefix(f"{point.path!r} ")
        advice = f"To mount there: xloop mount SOURCE {shlex.quote(point.path)}"
        free = why.endswith("nothing is mounted there")
        yield finding("mounted", False, f"no: it {why}", advice=advice if free else "", wrong=True)
        return
    owner = f", by user {entry.owner}" if entry.owner is not None else ""
    yield finding("mounted", True, detail=f"{entry.fstype} of {entry.source!r}{owner}")
    if point.below is not None:
        yield finding(
            "covers", True, detail=f"another mount, {point.below.fstype} of {point.below.source!r}"
        )
    yield _health(point, entry, facts)
    yield from (_server(server) for server in point.servers)
    if not point.servers:
        gone = point.health is Health.DEAD
        yield finding(
            "server",
            True,
            detail="none any more" if gone else "not to be seen by this user, or here",
        )
    for pid, program, used in point.users:
        yield finding("used by", True, detail=f"{program} (pid {pid}): {used}")
    if not point.users:
        yield finding("used by", True, detail="nobody that this user can see")
    for inside in point.inside:
        yield finding("inside", True, detail=f"another mount, {inside}")


def _health(point: Point, entry: MountEntry, facts: Facts) -> Finding:
    if point.health is Health.ANSWERS:
        return Finding("mountpoint", "answers", True, detail="yes")
    why = _HEALTH[point.health]
    if point.health is Health.DEAD:
        again = command("mount", "--replace", entry.source, entry.mountpoint)
        return Finding(
            "mountpoint",
            "answers",
            False,
            why,
            (_unmounting(entry, facts),),
            f"Or mount again in its place: {again}"
            if _is_ours(entry) and os.path.isabs(entry.source)
            else "",
            wrong=True,
        )
    ways = [
        "This takes it out of the way. Who has something open waits on, until the server answers or ends."
    ]
    if _is_ours(entry):
        cut_off = command("umount", "--force", entry.mountpoint)
    else:
        abort = f"/sys/fs/fuse/connections/{entry.device[1]}/abort"
        cut_off = command("-c", f"echo 1 > {abort}", program="sh")
    if _is_ours(entry) or facts.system == "linux":
        if _is_of_others(entry, facts):
            cut_off = as_root(cut_off, facts)
        ways.append(f"To cut everybody off: {cut_off}")
    return Finding(
        "mountpoint",
        "answers",
        False,
        why,
        (_unmounting(entry, facts, lazy=True),),
        "\n".join(ways),
        wrong=True,
    )


def _server(server: Server) -> Finding:
    states = {"T": "stopped", "t": "stopped by a debugger", "D": "waits for the source"}
    state = states.get(server.state, "")
    told = ", ".join(filter(None, (f"{server.program} (pid {server.pid})".strip(), state)))
    if server.errors not in ("", os.devnull):
        told += f", its messages go to {server.errors}"
    stopped = server.state == "T"
    return Finding(
        "mountpoint",
        "server",
        not stopped,
        "let it go on" if stopped else "",
        (command("-CONT", str(server.pid), program="kill"),) if stopped else (),
        detail=told,
        wrong=stopped,
    )
