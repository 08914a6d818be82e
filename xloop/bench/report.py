# SPDX-License-Identifier: MIT
"""What was measured, as a dictionary for --json, and as a table to read.

Owns the form.  Does not own the arithmetic (:mod:`xloop.bench.stats`) nor the picture
(:mod:`xloop.bench.chart`), which is drawn from the same dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xloop.bench.crew import cpus
from xloop.bench.measure import Plan, Result, Results
from xloop.bench.place import machine
from xloop.bench.rows import METADATA
from xloop.bench.stats import Spread, best, geometric_mean, ratios, spread
from xloop.bench.subjects import NATIVE

__all__ = ["Report", "build", "table"]

Report = dict[str, Any]

#: What --json tells of the form itself: it changes when a reader would have to.
FORMAT = 1


def build(plan: Plan, results: Results, skipped: Mapping[str, str]) -> Report:
    """Return all that is known.  *skipped*: by row, why it was not even tried."""
    from xloop import __version__

    kinds = {subject.name: subject.kind for subject in results.subjects}
    rows = [_row(result, kinds) for result in results.results]
    return {
        "format": FORMAT,
        "xloop": __version__,
        "machine": {
            **machine(cpus()),
            "load_before": results.load_before,
            "load_after": results.load_after,
        },
        "source": {"path": plan.place.path, "fstype": plan.place.fstype},
        "remarks": _remarks(plan, results),
        "settings": {
            "rounds": plan.rounds,
            "workload_rounds": plan.work_rounds,
            "clients": list(plan.clients),
            "busy": plan.busy,
            "sizes": {name: getattr(plan.sizes, name) for name in plan.sizes.__slots__},
        },
        "subjects": [{"name": s.name, "kind": s.kind, **s.facts()} for s in results.subjects],
        "left_out": dict(results.left_out),
        "skipped": dict(skipped),
        "results": rows,
        "geometric_means": [
            {"clients": clients, **_means([row for row in rows if row["clients"] == clients])}
            for clients in plan.clients
        ],
    }


def _remarks(plan: Plan, results: Results) -> list[str]:
    remarks = list(plan.place.remarks)
    if (results.load_before or 0) > 0.3 * cpus():
        remarks.append(
            f"the machine was not idle: the load was {results.load_before:.1f} on {cpus()} CPUs"
            " when it began"
        )
    if plan.busy:
        remarks.append(f"every CPU ({cpus()}) was kept busy by another process meanwhile")
    for subject in results.subjects:
        if remark := subject.facts().get("remark"):
            remarks.append(f"{subject.name}: {remark}")
    return remarks


def _row(result: Result, kinds: Mapping[str, str]) -> dict[str, Any]:
    found = result.costs()
    costs = {name: found[name] for name in kinds if name in found}  # in the order of the subjects
    shown = {
        name: [_value(result.row.unit, cost) for cost in values] for name, values in costs.items()
    }
    peers = {name: values for name, values in costs.items() if kinds[name] == "peer"}
    return {
        "row": result.row.name,
        "title": result.row.title,
        "group": result.row.group,
        "unit": result.row.unit,
        "clients": result.clients,
        "subjects": {name: {"rounds": v, **_spread(spread(v))} for name, v in shown.items()},
        "best_peer": best(peers),
        # How many times as long as the other one it took: less than 1 is faster.
        "ratios": {
            name: {
                other: {"rounds": r, **_spread(spread(r))}
                for other, reference in costs.items()
                if _compared(kinds[name], kinds[other])
                for r in [ratios(values, reference)]
            }
            for name, values in costs.items()
            if name != NATIVE
        },
        "failures": dict(result.failures),
    }


def _compared(kind: str, other: str) -> bool:
    return other == "native" or (kind == "xloop" and other == "peer")


def _value(unit: str, cost: float) -> float:
    """Return the seconds for one operation, byte or run in the unit that is shown."""
    return {"us": cost * 1e6, "MB/s": 1e-6 / cost, "s": cost}[unit]


def _spread(found: Spread) -> dict[str, Any]:
    return {"median": found.median, "quartiles": [found.low, found.high]}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the geometric means of the ratios of the rows of metadata.

    Each only over all of these rows: a mean that leaves out what failed would flatter.
    """
    metadata = [row for row in rows if row["group"] == METADATA]
    names = list(dict.fromkeys(name for row in metadata for name in row["ratios"]))
    found: dict[str, Any] = {}
    for name in names:
        by = [row["ratios"].get(name, {}) for row in metadata]
        others = list(dict.fromkeys(other for ratio in by for other in ratio))
        means = {other: _mean([ratio.get(other) for ratio in by]) for other in others}
        if any(other != NATIVE for other in others):
            means["best_peer"] = _mean(
                [ratio.get(row["best_peer"]) for row, ratio in zip(metadata, by, strict=True)]
            )
        found[name] = means
    return {"rows": [row["row"] for row in metadata], "ratios": found}


def _mean(found: Sequence[Mapping[str, Any] | None]) -> float | None:
    medians = [ratio["median"] for ratio in found if ratio is not None]
    return geometric_mean(medians) if len(medians) == len(found) else None


# -- the table ----------------------------------------------------------------------------------


def table(report: Report) -> str:
    """Return the report as plain text."""
    blocks = [_heading(report)]
    for clients in report["settings"]["clients"]:
        rows = [row for row in report["results"] if row["clients"] == clients]
        if rows:
            blocks.append(_block(report, clients, rows))
    blocks.append(_notes(report))
    return "\n\n".join(filter(None, blocks))


def _heading(report: Report) -> str:
    on, source = report["machine"], report["source"]
    lines = [
        f"xloop {report['xloop']} on {on['processor']}, {on['cpus']} CPUs, {on['system']}, "
        f"{on['python']}, {on['user']} user",
        f"in {source['path']} ({source['fstype']})" + _loads(on),
    ]
    for subject in report["subjects"]:
        words = [subject.get(key) for key in ("version", "backend", "options", "command")]
        if any(words):
            lines.append(f"{subject['name']}: " + ", ".join(str(word) for word in words if word))
    return "\n".join(lines)


def _loads(on: Mapping[str, Any]) -> str:
    if on["load_before"] is None:
        return ""
    return f", load {on['load_before']:.2f} before and {on['load_after']:.2f} after"


def _block(report: Report, clients: int, rows: Sequence[Mapping[str, Any]]) -> str:
    kinds = {subject["name"]: subject["kind"] for subject in report["subjects"]}
    ours = [name for name, kind in kinds.items() if kind == "xloop"]
    peers = [name for name, kind in kinds.items() if kind == "peer"]
    lines = [
        [
            "" if clients == 1 else f"{clients} clients at once",
            *kinds,
            *(f"{name}:native" for name in ours),
            *(f"{name}:best peer" for name in ours if peers),
        ]
    ]
    group = rows[0]["group"]
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines.append([])
        lines.append(
            [
                f"{row['title']}, {_unit(row)}",
                *(_figure(row, name) for name in kinds),
                *(_ratio(row["ratios"].get(name, {}).get(NATIVE)) for name in ours),
                *(_best_ratio(row, name) for name in ours if peers),
            ]
        )
    means = next(m for m in report["geometric_means"] if m["clients"] == clients)
    if means["ratios"]:
        by = means["ratios"]
        lines.append([])
        lines.append(
            [
                "metadata: geometric mean of the ratios",
                *(
                    _times(by.get(name, {}).get(NATIVE)) if name != NATIVE else "1"
                    for name in kinds
                ),
                *(_times(by.get(name, {}).get(NATIVE)) for name in ours),
                *(_times(by.get(name, {}).get("best_peer")) for name in ours if peers),
            ]
        )
    return _aligned(lines)


def _unit(row: Mapping[str, Any]) -> str:
    return "ops/s" if row["unit"] == "us" and row["clients"] > 1 else str(row["unit"])


def _figure(row: Mapping[str, Any], name: str) -> str:
    if name in row["failures"]:
        return "failed"
    median: float = row["subjects"][name]["median"]
    return _number(1e6 / median if _unit(row) == "ops/s" else median)


def _number(value: float) -> str:
    """Return three digits or as many as there are before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{_number(value)}x"


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    low, high = ratio["quartiles"]
    return f"{_times(ratio['median'])} ({_number(low)}..{_number(high)})"


def _best_ratio(row: Mapping[str, Any], name: str) -> str:
    ratio = row["ratios"].get(name, {}).get(row["best_peer"])
    return "-" if ratio is None else f"{_ratio(ratio)} {row['best_peer']}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return the lines with their first column to the left and the others to the right."""
    columns = max(map(len, lines))
    widths = [max(len(line[c]) for line in lines if c < len(line)) for c in range(columns)]
    text = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=False)]
        text.append("  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip() if line else "")
    return "\n".join(text)


def _notes(report: Report) -> str:
    notes = [
        "A ratio is how many times as long as the other it takes (less than 1: faster): the median of",
        "the ratios of each round, and their quartiles. Rounds: "
        f"{report['settings']['rounds']}, of workloads {report['settings']['workload_rounds']}.",
    ]
    notes += report["remarks"]
    notes += [f"{name} was left out: {why}" for name, why in report["left_out"].items()]
    notes += [f"{row} was skipped: {why}" for row, why in report["skipped"].items()]
    failures: dict[tuple[str, str], list[str]] = {}
    for row in report["results"]:
        for name, why in row["failures"].items():
            failures.setdefault((name, why), []).append(row["row"])
    for (name, why), rows in failures.items():
        notes.append(f"{', '.join(dict.fromkeys(rows))} failed on {name}: {why}")
    return "\n".join(notes)
