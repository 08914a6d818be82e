# SPDX-License-Identifier: MIT
"""``xloop bench``: measure a mount beside the plain directory and beside other programs' mounts.

Owns the command's words, and what of them cannot go together.  Does not own the measuring:
:mod:`xloop.bench`.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from xloop.cli.proposals import backends, directories, option_words
from xloop.errors import OptionError
from xloop.registry import AUTO

if TYPE_CHECKING:
    from xloop.bench.measure import Progress
    from xloop.bench.rows import Row
    from xloop.bench.subjects import Subject

__all__ = ["bench"]

_EPILOG = """\b
Examples:
  xloop bench                               everything, on a tmpfs; some minutes
  xloop bench --quick --only metadata       a first look
  xloop bench --against none --only untar   one row, without any other program
  xloop bench --variant 'served=-o nopassthrough' --only data
  xloop bench --clients 1,2,4,8 --only create,open-read --chart clients.svg
  xloop bench --busy --json > busy.json     while every CPU has something else to do

\b
Rows, for --only:
  metadata    create stat missing open open-write open-read chmod scandir-cold
                scandir-warm rename unlink
  data        write read random-read random-write
  workloads   untar find-cold find-warm rm git-status compile
What they do, and how to read the ratios: docs/performance.md.
"""

#: Most processes at once: more than these measure the scheduler.
_MOST_CLIENTS = 256


@click.command(epilog=_EPILOG)
@click.argument("source", required=False, shell_complete=directories)
@click.option(
    "-o",
    "--options",
    "words",
    multiple=True,
    metavar="OPTION[,...]",
    shell_complete=option_words,
    help="Mount options for xloop, as for `xloop mount`. May be repeated.",
)
@click.option(
    "--backend",
    default=AUTO,
    show_default=True,
    metavar="NAME",
    help="How xloop mounts.",
    shell_complete=backends,
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME=WORDS",
    help="Measure xloop once more, with these -o and --backend besides. May be repeated.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="NAME[=COMMAND]",
    help="Another program to measure: bindfs, mergerfs, passthrough_hp, passthrough_ll, go-fuse; or "
    "a command with {source} and {mountpoint}; or none. May be repeated. "
    "[default: those that are in the PATH]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="ROW[,...]",
    help="Measure these rows only, or these groups of rows, see below. May be repeated.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help="How often each row is measured; workloads half as often. [default: 7]",
)
@click.option(
    "--quick", is_flag=True, help="Less of everything: for a first look, not for figures."
)
@click.option(
    "--clients",
    default="1",
    show_default=True,
    metavar="N[,...]",
    help="Do the rows in N processes at the same time, each in its own directory. "
    "Workloads are done by one.",
)
@click.option("--busy", is_flag=True, help="Keep every CPU busy with another process meanwhile.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, not as a table.")
@click.option(
    "--chart",
    metavar="FILE",
    help="Also draw the ratios to FILE, .svg or .png. Needs matplotlib.",
)
def bench(
    source: str | None,
    words: tuple[str, ...],
    backend: str,
    variants: tuple[str, ...],
    against: tuple[str, ...],
    only: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    clients: str,
    busy: bool,
    as_json: bool,
    chart: str | None,
) -> None:
    """Measure what a mount costs here, and what others cost.

    Does the same in a plain directory, through xloop, and through other programs that show a
    directory, and compares. Works in a directory of its own in SOURCE, which is removed at the end. Without SOURCE on a
    tmpfs, so that no disk is measured. Asserts nothing: the status is 0 if all could be measured.
    """
    from xloop.bench import chart as charts
    from xloop.bench.measure import Plan, run
    from xloop.bench.place import choose_place
    from xloop.bench.report import build, table
    from xloop.bench.rows import FULL, QUICK
    from xloop.bench.subjects import check_backends, check_names

    try:
        counts = _counts(clients)
        rows, skipped = _rows(only, counts)
        subjects = _subjects(words, backend, variants, against)
        check_names(subjects)
    except OptionError as exc:
        raise click.UsageError(str(exc)) from None
    check_backends(subjects)
    if chart is not None:
        charts.check_can_draw(chart)
    sizes = QUICK if quick else FULL
    rounds = rounds or (3 if quick else 7)
    plan = Plan(
        place=choose_place(source, sizes.bytes_for(rows, len(subjects) + 1, counts[-1])),
        subjects=subjects,
        rows=rows,
        sizes=sizes,
        rounds=rounds,
        work_rounds=min(rounds, max(3, rounds // 2)),
        clients=counts,
        busy=busy,
    )
    _end_by_exceptions()
    with ExitStack() as stack:
        results = run(plan, _progress_bar(stack))
    report = build(plan, results, skipped)
    click.echo(json.dumps(report, indent=2) if as_json else table(report))
    if chart is not None:
        charts.draw(report, chart)
    if as_json:  # the table says so itself
        for name, why in results.left_out.items():
            click.echo(f"xloop: {name} was left out: {why}", err=True)
    failed = [row["row"] for row in report["results"] if row["failures"]]
    if failed:
        rows_failed = ", ".join(dict.fromkeys(failed))
        click.echo(f"xloop: not all could be measured: {rows_failed}", err=True)
    sys.exit(1 if failed else 0)


def _counts(text: str) -> list[int]:
    counts = []
    for word in text.split(","):
        if not word.strip().isdecimal() or not 1 <= int(word) <= _MOST_CLIENTS:
            raise OptionError(
                f"--clients: {word!r} is not a number from 1 to {_MOST_CLIENTS}",
                "several are separated by commas: --clients 1,2,4,8,16",
            )
        counts.append(int(word))
    return sorted(set(counts))


def _rows(only: tuple[str, ...], counts: Sequence[int]) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that are wanted and possible, and why others are not."""
    from xloop.bench.rows import WORKLOADS
    from xloop.bench.workloads import all_rows
    from xloop.options import nearest

    every = all_rows()
    groups = {row.group for row in every.values()}
    wanted = {word.strip() for words in only for word in words.split(",")}
    for word in wanted - groups - set(every):
        names = [*every, *sorted(groups)]
        raise OptionError(
            f"--only: there is no row {word!r}{nearest(word, names)}",
            f"rows and groups: {', '.join(names)}",
        )
    rows, skipped = [], {}
    for name, row in every.items():
        if wanted and not wanted & {name, row.group}:
            continue
        missing = [program for program in row.programs if shutil.which(program) is None]
        if missing:
            skipped[name] = f"there is no {missing[0]} in the PATH"
        elif row.group == WORKLOADS and 1 not in counts:
            skipped[name] = "workloads are for one client, and --clients has no 1"
        else:
            rows.append(row)
    if not rows:
        name, why = next(iter(skipped.items()))
        raise OptionError(f"nothing is left to measure: {name}: {why}")
    return rows, skipped


def _subjects(
    words: tuple[str, ...], backend: str, variants: tuple[str, ...], against: tuple[str, ...]
) -> list[Subject]:
    from xloop.bench.subjects import Peer, Xloop, found_programs, parse_against, parse_variant

    ours = Xloop("xloop", words, backend)
    if "none" in against and len(against) > 1:
        raise OptionError("--against: 'none' and another one contradict each other")
    if against == ("none",):
        programs = []
    elif against:
        programs = [parse_against(text) for text in against]
    else:
        programs = found_programs()
    return [
        ours,
        *(parse_variant(text, words, backend) for text in variants),
        *(Peer(program, ours.options) for program in programs),
    ]


def _progress_bar(stack: ExitStack) -> Callable[[int], Progress]:
    """Return what shows a bar on stderr, until *stack* ends; nothing where nobody would see it."""

    def started(total: int) -> Progress:
        if not sys.stderr.isatty():
            return lambda what: None
        bar: Any = stack.enter_context(
            click.progressbar(length=total, file=sys.stderr, item_show_func=lambda what: what or "")
        )
        return lambda what: bar.update(1, what)

    return started


def _end_by_exceptions() -> None:
    """Let all signals that ask for an end run what cleans up, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    from xloop.host.process import TERMINATING, unblock

    for number in TERMINATING - {signal.SIGINT}:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unblock()
