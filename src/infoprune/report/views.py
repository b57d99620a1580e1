"""What a page or a figure shows of one layer, and of a run as a whole: plain values, no drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from infoprune.measure.record import removed
from infoprune.plan import LayerDecision
from infoprune.report.run import Run

PAIRS = 6


@dataclass(frozen=True)
class Pair:
    """A removed filter, the kept one it is most like, and how much.

    Example:
        >>> Pair(removed=3, kept=1, alike=0.97).kept
        1
    """

    removed: int
    kept: int
    alike: float


@dataclass(frozen=True)
class Candidate:
    """A number of filters that a cut-off rule proposed to keep, and its held-out accuracy in percent.

    Example:
        >>> Candidate(count=8, accuracy=91.5).count
        8
    """

    count: int
    accuracy: float | None


@dataclass(frozen=True)
class LayerView:
    """One coupled group of a run.

    Args:
        decision: What happened to it.
        figure: Figure that explains the choice: the criterion's curve, its similarity matrix, its scores, or none.
        order: All filters, most important first.
        macs: Multiply-adds of the layers that lose filters of this group, before.
        macs_after: The same, afterwards.
        saturated_at: Number of filters after which the order is noise, where the criterion reports it.
        saturation: Share of the labels' entropy that all filters together explain, where the criterion reports it.
        candidates: Where else the layer could have been cut, where a cut-off rule proposed several places.
        similarity: ``(filters, filters)`` float64, where the criterion returns it.
        maps: ``(images, filters, h, w)`` uint8, where there are pictures.
        pairs: The removed filters most like a kept one, most alike first.
        pairs_by: What the likeness is.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> layer_views(run)[0].decision.layer, layer_views(run)[0].figure
        ('features.0', 'scores')
    """

    decision: LayerDecision
    figure: Literal["curve", "matrix", "scores", "none"]
    order: tuple[int, ...]
    macs: int | None
    macs_after: int | None
    saturated_at: int | None
    saturation: float | None
    candidates: tuple[Candidate, ...]
    similarity: Tensor | None
    maps: Tensor | None
    pairs: tuple[Pair, ...]
    pairs_by: str


def layer_views(run: Run) -> list[LayerView]:
    """Return what there is to see of every layer of the plan, in the order of the network.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> len(layer_views(run))
        4
    """
    return [_view(run, decision) for decision in run.plan.decisions.values()]


def likeness(maps: Tensor) -> Tensor:
    """Return the ``(C, C)`` correlations of ``(images, C, h, w)`` maps over images and positions; 0 if constant.

    Example:
        >>> import torch
        >>> maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> likeness(maps).shape
        torch.Size([3, 3])
    """
    flat = maps.movedim(1, 0).flatten(1).double()
    centred = flat - flat.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    unit = centred / torch.where(length > 0, length, torch.ones_like(length))
    return unit @ unit.mT


def closest_pairs(similarity: Tensor, kept: Sequence[int], gone: Sequence[int], count: int = PAIRS) -> tuple[Pair, ...]:
    """Return the removed filters that are most like a kept one, most alike first, equal ones by index.

    Example:
        >>> import torch
        >>> similarity = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.1], [0.2, 0.1, 1.0]])
        >>> [(pair.removed, pair.kept) for pair in closest_pairs(similarity, kept=(0, 2), gone=(1,))]
        [(1, 0)]
    """
    if not gone:
        return ()
    values, places = similarity[list(gone)][:, list(kept)].double().max(dim=1)
    ranked = torch.sort(values, descending=True, stable=True).indices.tolist()[:count]
    return tuple(Pair(gone[i], kept[int(places[i])], float(values[i])) for i in ranked)


def summary_rows(run: Run) -> list[dict[str, str]]:
    """Return base value, pruned value and change of every figure that was measured.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> isinstance(summary_rows(run)[0], dict)
        True
    """
    base, pruned, weights = run.record["base"], run.record["pruned"], run.record.get("weight_bytes", {})
    found = (
        _difference("Accuracy", base.get("accuracy"), pruned.get("accuracy"), "{:.2f} %", "{:+.2f} points"),
        _difference(base.get("metric_name") or "Metric", base.get("metric"), pruned.get("metric"), "{:.4f}", "{:+.4f}"),
        _difference("Loss", base.get("loss"), pruned.get("loss"), "{:.4f} nats", "{:+.4f} nats"),
        _share("MACs", base["macs"], pruned["macs"], short),
        _share("Parameters", base["parameters"], pruned["parameters"], short),
        _share("Weights in a file", weights.get("base"), weights.get("pruned"), lambda size: f"{short(size)}B"),
        _share("Latency", base.get("latency_ms"), pruned.get("latency_ms"), lambda time: f"{time:.2f} ms"),
    )
    return [row for row in found if row is not None]


def short(number: float) -> str:
    """Return a count in three digits with its SI prefix: 125.5 M.

    Example:
        >>> short(125_500_000)
        '126 M'
    """
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}" if number / size < 1000 else f"{number / size:.0f} {prefix}"
    return f"{number:.0f}"


def criterion_of(run: Run) -> str:
    """Return the name of what chose the filters.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> criterion_of(run)
        'l1'
    """
    return str(run.settings.get("criterion") or "a given plan")


def network_of(run: Run) -> str:
    """Return the name of the network.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> isinstance(network_of(run), str)
        True
    """
    network = run.settings.get("network") or {}
    return str(run.record.get("architecture") or network.get("architecture") or "network")


def _view(run: Run, decision: LayerDecision) -> LayerView:
    evidence = run.evidence.get(decision.layer, {})
    similarity = evidence.get("similarity")
    maps = None if run.pictures is None else run.pictures.maps.get(decision.layer)
    alike, by = _likeness(similarity, maps, decision)
    saturated, saturation = evidence.get("saturated_at"), evidence.get("saturation")
    members = [decision.layer, *decision.coupled]
    costs = [run.record.get("layers", {}).get(layer) for layer in members]
    known = [each for each in costs if each is not None]
    return LayerView(
        decision,
        _figure(decision, similarity),
        _order(decision),
        sum(each["macs"] for each in known) if known else None,
        sum(each["macs_after"] for each in known) if known else None,
        None if saturated is None else int(saturated),
        None if saturation is None else float(saturation),
        _candidates(evidence),
        None if similarity is None else similarity.double(),
        maps,
        () if alike is None else closest_pairs(alike, decision.kept, decision.removed),
        by,
    )


def _candidates(evidence: Mapping[str, Tensor]) -> tuple[Candidate, ...]:
    counts = evidence.get("candidates")
    if counts is None:
        return ()
    unknown = torch.full((len(counts),), math.nan)
    accuracies = evidence.get("candidate_accuracy", unknown).tolist()
    return tuple(
        Candidate(int(count), None if math.isnan(accuracy) else accuracy)
        for count, accuracy in zip(counts.tolist(), accuracies, strict=True)
    )


def _likeness(similarity: Tensor | None, maps: Tensor | None, decision: LayerDecision) -> tuple[Tensor | None, str]:
    if similarity is not None and similarity.shape == (decision.filters, decision.filters):
        return similarity, "the criterion's similarity"
    if maps is not None and maps.shape[1] == decision.filters:
        return likeness(maps), "correlation of the maps shown"
    return None, ""


def _figure(decision: LayerDecision, similarity: Tensor | None) -> Literal["curve", "matrix", "scores", "none"]:
    if decision.curve is not None:
        return "curve"
    if similarity is not None:
        return "matrix"
    return "scores" if decision.scores is not None else "none"


def _order(decision: LayerDecision) -> tuple[int, ...]:
    if decision.order:
        return tuple(decision.order)
    if decision.scores is not None:
        scores = decision.scores
        return tuple(sorted(range(decision.filters), key=lambda i: (-scores[i], i)))
    return (*decision.kept, *decision.removed)


def _difference(label: str, base: float | None, pruned: float | None, form: str, change: str) -> dict[str, str] | None:
    if base is None or pruned is None:
        return None
    return {"label": label, "base": form.format(base), "pruned": form.format(pruned),
            "change": change.format(pruned - base)}  # fmt: skip


def _share(label: str, base: float | None, pruned: float | None, form: Callable[[float], str]) -> dict[str, str] | None:
    if not base or pruned is None:
        return None
    return {"label": label, "base": form(base), "pruned": form(pruned), "change": f"{-removed(base, pruned):+.1f} %"}
