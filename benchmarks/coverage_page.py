"""The page ``docs/coverage.md``, from the rows of ``coverage.py``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from coverage_networks import Network

Row = dict[str, Any]
STATUSES = ("right", "wrong", "refused", "crashed", "timed out", "failed")
LONGEST_REASON = 160

HEAD = """\
# Which networks can be pruned

Every torchvision CNN for classification, segmentation, detection, video and optical flow, and the smallest network of
each timm module that has convolutions beyond a patch embedding. infoprune prunes each to half of its MACs
(`infoprune.plan` with `criterion="l1"`, then `infoprune.apply`). Weights are random. `python benchmarks/coverage.py`
makes this page.

A result is *right* if the pruned network computes the same outputs, all of them, as the whole network with zeros in
place of the removed channels. `benchmarks/coverage_check.py` finds the removed channels by comparing the weights of
both networks and runs both in double precision. It shares no code with any of the tools, nor with `infoprune.verify`.
*refused* means that the tool ended with a reason instead of a network, *crashed* with another error, *timed out* that
it needed more processor time than the reason says, *failed* that the network itself does not run here.

Run beside it: {rivals}.
No rival takes a budget of MACs; each removes 30 % of the channels of every layer, which is about half of the MACs.
Layers with as many outputs as classes, and the heads of detectors, are named to Torch-Pruning as ignored layers.
Seconds are processor time on one core, for plan and cut. A tool may have been run on some networks only; the summary
says on how many.
"""


def written(rows: Sequence[Row], networks: Sequence[Network]) -> str:
    """Return the page as Markdown.

    Args:
        rows: One per network and tool.
        networks: All networks of the benchmark.
    """
    versions = {row["tool"]: row.get("version", "") for row in rows if row.get("version")}
    rivals = " and ".join(f"{tool} {version}" for tool, version in versions.items() if tool != "infoprune")
    head = HEAD.format(rivals=rivals)
    by_key = {(row["suite"], row["name"], row["tool"]): row for row in rows}
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    parts = [head, *_summary(rows, networks, tools), *_speed(by_key, tools), *_troubles(rows, tools)]
    return "\n".join([*parts, *_all(by_key, networks, tools)]) + "\n"


def _summary(rows: Sequence[Row], networks: Sequence[Network], tools: Sequence[str]) -> Iterator[str]:
    yield "## Summary\n"
    yield f"| networks | tool | run | {' | '.join(STATUSES)} |"
    yield f"|---|---|---:|{'---:|' * len(STATUSES)}"
    mixed = {(row["suite"], row["name"]) for row in rows if row.get("convolutional") is False}
    for title, suite, attention in (
        ("torchvision", "torchvision", None),
        ("timm, convolutions alone", "timm", False),
        ("timm, with attention", "timm", True),
    ):
        names = {
            one.name for one in networks if one.suite == suite and attention in (None, (one.suite, one.name) in mixed)
        }
        for tool in tools:
            some = [row for row in rows if (row["suite"], row["tool"]) == (suite, tool) and row["name"] in names]
            counts = Counter(row["status"] for row in some)
            shown = " | ".join(str(counts[status]) for status in STATUSES)
            yield f"| {title} ({len(names)}) | {tool} | {len(some)} | {shown} |"
    yield ""


def _speed(by_key: dict[tuple[str, str, str], Row], tools: Sequence[str]) -> Iterator[str]:
    for other in (tool for tool in tools if tool != "infoprune"):
        ratios = [
            row["seconds"] / theirs["seconds"]
            for (suite, name, tool), row in by_key.items()
            if tool == "infoprune" and row["status"] == "right"
            for theirs in [by_key.get((suite, name, other), {})]
            if theirs.get("status") == "right"
        ]
        if ratios:
            yield (
                f"infoprune needs {statistics.median(ratios):.1f} times the processor time of {other} in the median "
                f"of the {len(ratios)}\nnetworks that both prune right; it checks every cut, {other} does not.\n"
            )


def _troubles(rows: Sequence[Row], tools: Sequence[str]) -> Iterator[str]:
    for tool in tools:
        bad = [row for row in rows if row["tool"] == tool and row["status"] != "right"]
        if not bad:
            continue
        yield f"## Not pruned by {tool}\n"
        yield "| network | | reason |"
        yield "|---|---|---|"
        for row in bad:
            yield f"| {row['name']} ({row['suite']}) | {row['status']} | {_reason(row)} |"
        yield ""


def _all(by_key: dict[tuple[str, str, str], Row], networks: Sequence[Network], tools: Sequence[str]) -> Iterator[str]:
    yield "## All networks\n"
    yield "MACs that are left, largest difference relative to the largest output, and seconds.\n"
    yield f"| network | {' | '.join(tools)} |"
    yield f"|---|{'---|' * len(tools)}"
    for one in sorted(networks, key=lambda one: (one.suite != "torchvision", one.family, one.parameters)):
        cells = [_cell(by_key.get((one.suite, one.name, tool))) for tool in tools]
        if any(cells):
            yield f"| {one.name} ({one.suite}) | {' | '.join(cells)} |"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["status"] != "right":
        return str(row["status"])
    asked = "" if row.get("target", 0.5) == 0.5 else f" of {row['target']:.0%} asked for"
    return f"{row['macs']:.0%}{asked}, {row['difference']:.0e}, {row['seconds']:.1f} s"


def _reason(row: Row) -> str:
    text = " ".join(str(row.get("reason", "")).split()).replace("|", "/")
    short = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."
    return short + (f" ({row['where']})" if row.get("where") else "")
