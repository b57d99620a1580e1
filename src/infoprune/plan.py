"""The plan: which filters of which layers are kept, and why. Pure data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from infoprune.declarations.option import Option
from infoprune.declarations.option_values import check_fields
from infoprune.declarations.validation import validated
from infoprune.errors import InputError

FORMAT = 1
# No layer is wider; a file that claims more would only fill the memory.
_MOST_FILTERS = 2**17


@dataclass(frozen=True)
class Budget:
    """What may remain of the original network, each a share in (0, 1]; ``None`` where nothing is asked.

    Example:
        >>> Budget(macs=0.5).shares()
        {'macs': 0.5}
    """

    macs: Annotated[
        float | None, Option("Share of the MACs of convolution and linear layers that may remain.", gt=0, le=1)
    ] = None
    parameters: Annotated[float | None, Option("Share of the parameters that may remain.", gt=0, le=1)] = None
    latency: Annotated[
        float | None, Option("Share of the measured latency of one batch that may remain.", gt=0, le=1)
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.shares():
            raise InputError("a budget names at least one of macs, parameters and latency")

    def shares(self) -> dict[str, float]:
        """Return the shares that were asked for, by name."""
        return {name: share for name, share in asdict(self).items() if share is not None}


@dataclass(frozen=True)
class LayerDecision:
    """What happens to one coupled group, under the name of its first layer.

    Args:
        layer: Dotted name of the convolution or linear layer that names the group.
        filters: How many filters the layer had.
        kept: Indices of the kept filters, ascending, never empty.
        coupled: Other layers that lose the same filters with it.
        scores: Importance of each filter, larger is kept, ``None`` for a plan made by hand.
        order: All filters, most important first, where the criterion returns an order.
        curve: Value of keeping the first 1, 2, ... filters of ``order``, where the criterion returns one.
        reason: One sentence on how the cut was found.
        partner: Of each filter, the most similar one when the criterion removed it, -1 where there is none;
            ``None`` where the criterion does not pair filters. ``--repair merge`` merges into it.

    Example:
        >>> LayerDecision("conv1", 4, (0, 2)).removed
        (1, 3)
    """

    layer: str
    filters: int
    kept: tuple[int, ...]
    coupled: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    order: tuple[int, ...] | None = None
    curve: tuple[float, ...] | None = None
    reason: str = ""
    partner: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.kept:
            raise InputError(f"layer '{self.layer}' would be left without filters: keep at least one")
        if list(self.kept) != sorted(set(self.kept)):
            raise InputError(f"layer '{self.layer}': kept filters must be ascending and without repeats")
        if self.kept[0] < 0 or self.kept[-1] >= self.filters:
            wrong = next(i for i in self.kept if not 0 <= i < self.filters)
            raise InputError(f"layer '{self.layer}' has filters 0 to {self.filters - 1}: there is no filter {wrong}")
        self._check_evidence()

    def _check_evidence(self) -> None:
        for what, values in (("scores", self.scores), ("partners", self.partner)):
            if values is not None and len(values) != self.filters:
                raise InputError(f"layer '{self.layer}' has {self.filters} filters, but {len(values)} {what}")
        if self.partner is not None and not all(-1 <= i < self.filters for i in self.partner):
            raise InputError(f"layer '{self.layer}': a partner is a filter, 0 to {self.filters - 1}, or -1")
        if self.order and sorted(self.order) != list(range(self.filters)):
            raise InputError(f"layer '{self.layer}': the order must hold each of its {self.filters} filters once")

    def stands_in(self, filter_: int) -> int:
        """Return the kept filter that a filter was paired with, itself where it is kept, -1 where there is none.

        A partner that was removed later is followed to its own partner.
        """
        kept = set(self.kept)
        seen: set[int] = set()
        while filter_ not in kept:
            if self.partner is None or filter_ < 0 or filter_ in seen:
                return -1
            seen.add(filter_)
            filter_ = self.partner[filter_]
        return filter_

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the removed filters, ascending."""
        kept = set(self.kept)
        return tuple(i for i in range(self.filters) if i not in kept)


@dataclass(frozen=True, repr=False)
class Plan:
    """Every decision for one network, in the order of its layers.

    Args:
        decisions: The decision of each group, by the layer that names it.
        left_alone: Layers that were not touched, each with the reason.
        settings: Everything needed to make the plan again.

    Example:
        >>> Plan({"conv1": LayerDecision("conv1", 4, (0, 2))}).decisions["conv1"].kept
        (0, 2)
    """

    decisions: Mapping[str, LayerDecision]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the number of kept filters by layer; the scores are in ``decisions``."""
        layers = (f"{name}: {len(one.kept)} of {one.filters}" for name, one in self.decisions.items())
        return f"Plan({', '.join(layers)} filters)" if self.decisions else "Plan()"

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Kept filter indices by layer."""
        return {layer: decision.kept for layer, decision in self.decisions.items()}

    def then(self, later: Plan) -> Plan:
        """Return the one plan that equals this plan followed by ``later``, in the indices of the first network.

        Raises:
            InputError: ``later`` was made for a network of other widths.
        """
        merged = dict(self.decisions)
        for layer, second in later.decisions.items():
            first = merged.get(layer)
            if first is None:
                merged[layer] = second
                continue
            if second.filters != len(first.kept):
                raise InputError(
                    f"layer '{layer}' has {len(first.kept)} filters after the first plan, but the later plan "
                    f"was made for {second.filters}"
                )
            kept = tuple(first.kept[i] for i in second.kept)
            merged[layer] = replace(first, kept=kept, reason=second.reason or first.reason)
        return Plan(merged, {**self.left_alone, **later.left_alone}, {**self.settings, **later.settings})

    def differences(self, other: Plan) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return, by layer, the filters kept only here and only in ``other``."""
        found = {}
        for layer in {**self.decisions, **other.decisions}:
            mine, theirs = (set(plan.kept.get(layer, ())) for plan in (self, other))
            if mine != theirs:
                found[layer] = (tuple(sorted(mine - theirs)), tuple(sorted(theirs - mine)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": FORMAT,
            "layers": {name: _without_none(asdict(decision)) for name, decision in self.decisions.items()},
            "left_alone": dict(self.left_alone),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read a plan from JSON values.

        Raises:
            InputError: The values are not a plan of a format this version knows.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"the plan must be a JSON object, not {type(data).__name__}")
        if data.get("format", 0) not in range(1, FORMAT + 1):
            raise InputError(f"this is not a plan of a format known here (1 to {FORMAT}): {data.get('format')!r}")
        written = validated(_Written, data, "the plan")
        for name, decision in written.layers.items():
            if name != decision.layer or not name.isprintable():
                raise InputError(f"the plan cannot be used: its entry {name!r} is of the layer {decision.layer!r}")
            if decision.filters > _MOST_FILTERS:
                raise InputError(
                    f"the plan cannot be used: layer '{name}' has at most {_MOST_FILTERS:,} filters, "
                    f"not {decision.filters:,}"
                )
        return cls(written.layers, written.left_alone, written.settings)

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1)


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


@dataclass(frozen=True)
class _Written:
    """A plan as it is written in JSON."""

    format: int
    layers: dict[str, LayerDecision]
    left_alone: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
