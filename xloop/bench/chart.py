# SPDX-License-Identifier: MIT
"""A report as a picture.

Owns the drawing, by matplotlib, which is imported here and nowhere else: it is an extra.  Does not
own the figures: they come from :mod:`xloop.bench.report`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from xloop.bench.subjects import NATIVE
from xloop.errors import XloopError

__all__ = ["FORMATS", "check_can_draw", "draw"]

FORMATS = (".png", ".svg")


def check_can_draw(path: str) -> None:
    """Raise XloopError if no chart can be made at *path*: before minutes of measuring."""
    if not path.endswith(FORMATS):
        raise XloopError(
            f"chart {path!r} is none of the pictures that can be drawn",
            f"its name must end in {' or '.join(FORMATS)}",
        )
    parent = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else parent, os.W_OK):
        raise XloopError(f"chart {path!r} cannot be written")
    if find_spec("matplotlib") is None:
        raise XloopError(
            "a chart needs matplotlib, which is not installed",
            f"install it: {sys.executable} -m pip install matplotlib\n"
            "or together with xloop: pip install 'xloop[bench]'",
        )


def draw(report: Mapping[str, Any], path: str) -> None:
    """Write the ratios to native of all rows, as bars with their quartiles, to *path*."""
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    by_clients = [
        (clients, [row for row in report["results"] if row["clients"] == clients])
        for clients in report["settings"]["clients"]
    ]
    panels = [(clients, rows) for clients, rows in by_clients if rows]
    names = [s["name"] for s in report["subjects"] if s["name"] != NATIVE]
    heights = [max(1, len(rows)) * (0.18 * len(names) + 0.2) + 0.6 for _, rows in panels]
    figure = Figure(figsize=(9, sum(heights) + 1.2), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights, sharex=True)
    for axis, (clients, rows) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, rows, names)
        if len(panels) > 1 or clients > 1:
            title = "1 client" if clients == 1 else f"{clients} clients at once"
            axis.set_title(title, fontsize="medium")
    axes[-1, 0].set_xlabel("times as long as natively (logarithmic; less is better)")
    axes[0, 0].legend(loc="best", fontsize="small")
    on = report["machine"]
    figure.suptitle(
        f"xloop {report['xloop']} on {on['processor']}, {on['cpus']} CPUs,\n{on['system']}, "
        f"{report['source']['fstype']}" + (", CPUs kept busy" if report["settings"]["busy"] else "")
    )
    try:
        figure.savefig(path, dpi=150)
    except OSError as exc:
        raise XloopError(f"chart {path!r} cannot be written: {exc.strerror}") from exc


def _panel(axis: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    thick = 0.8 / len(names)
    for number, name in enumerate(names):
        found = [
            (place, row["ratios"][name][NATIVE])
            for place, row in enumerate(rows)
            if name in row["ratios"]
        ]
        medians = [ratio["median"] for _, ratio in found]
        axis.barh(
            [place + (number - (len(names) - 1) / 2) * thick for place, _ in found],
            [median - 1 for median in medians],
            thick,
            left=1,  # to the left of it: faster than natively
            label=name,
            xerr=[
                [m - ratio["quartiles"][0] for m, (_, ratio) in zip(medians, found, strict=True)],
                [ratio["quartiles"][1] - m for m, (_, ratio) in zip(medians, found, strict=True)],
            ],
            error_kw={"linewidth": 0.8},
        )
    axis.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize="small")
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}x")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.grid(axis="x", which="both", linewidth=0.3)
