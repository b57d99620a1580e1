"""The origin of a network: what is needed to build it again from a file of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.declarations.validation import validated
from infoprune.errors import InputError
from infoprune.plan import Plan

_ATTRIBUTE = "_infoprune_origin"
# The cuts of a network whose architecture is not known.
_CUT = "_infoprune_cut"
# The blocks that were removed from such a network.
_BLOCKS = "_infoprune_blocks"
# Largest number of values of one image that a file may name: 4,096 x 4,096 pixels of 4 channels.
_LARGEST_IMAGE = 2**26
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Origin:
    """How a network is built, and all cuts made to it.

    Args:
        architecture: A zoo name, ``timm:NAME`` or ``torchvision:NAME``, which a checkpoint is built from. Any other
            text, such as ``package.module:function``, is information: loading never looks it up.
        input_shape: ``(C, H, W)`` of one image.
        arguments: JSON values passed to the architecture's function.
        preprocessing: The preprocessing that the weights expect, if known.
        plan: Every cut made so far, in the indices of the uncut network.
        blocks: By the name of every block that was removed, the activation in its place, empty for nothing; see
            :mod:`infoprune.depth`. They are removed before the plan is applied.

    Example:
        >>> Origin("digits", (1, 8, 8)).to_dict()["architecture"]
        'digits'
    """

    architecture: str
    input_shape: tuple[int, int, int]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    plan: Plan | None = None
    blocks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(size >= 1 for size in self.input_shape):
            raise InputError(f"the input shape is C, H, W, each at least 1, not {tuple(self.input_shape)}")

    def cut(self, plan: Plan) -> Origin:
        """Return the origin of this network after one more plan."""
        return replace(self, plan=plan if self.plan is None else self.plan.then(plan))

    def to_dict(self) -> dict[str, Any]:
        """Return the origin as JSON values."""
        return {
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "input_shape": list(self.input_shape),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_dict(),
            "plan": None if self.plan is None else self.plan.to_dict(),
            **({"blocks": dict(self.blocks)} if self.blocks else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """Read an origin from JSON values; entries that do not belong to an origin are ignored.

        Raises:
            InputError: The values are not an origin.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"the origin must be a JSON object, not {type(data).__name__}")
        values = {one.name: data[one.name] for one in fields(cls) if one.name in data}
        plan = values.pop("plan", None)
        origin = validated(cls, values, "the origin")
        if not origin.architecture.isprintable() or not 0 < len(origin.architecture) <= _LONGEST_NAME:
            raise InputError(
                f"the origin cannot be used: {origin.architecture[:_LONGEST_NAME]!r} names no architecture"
            )
        if math.prod(origin.input_shape) > _LARGEST_IMAGE:
            raise InputError(f"the origin cannot be used: images of shape {origin.input_shape} are too large")
        return origin if plan is None else replace(origin, plan=Plan.from_dict(plan))


def set_origin(model: nn.Module, origin: Origin) -> nn.Module:
    """Note its origin on a network and return the network; copies of the network keep the note.

    Example:
        >>> origin_of(set_origin(nn.Linear(2, 2), Origin("my.linear", (2, 1, 1)))).architecture
        'my.linear'
    """
    object.__setattr__(model, _ATTRIBUTE, origin)
    return model


def origin_of(model: nn.Module) -> Origin | None:
    """Return the origin of a network, ``None`` for one that infoprune did not build.

    Example:
        >>> network = set_origin(nn.Linear(2, 2), Origin("my.linear", (2, 1, 1)))
        >>> origin_of(network).architecture, origin_of(nn.Linear(2, 2))
        ('my.linear', None)
    """
    return getattr(model, _ATTRIBUTE, None)


def note_cut(pruned: nn.Module, model: nn.Module, plan: Plan) -> nn.Module:
    """Note a cut on a pruned network and return it; earlier cuts of the original are kept.

    Args:
        pruned: The smaller network.
        model: The network that the plan was applied to.
        plan: The cut.

    Example:
        >>> from infoprune.plan import LayerDecision
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> whole, small = nn.Sequential(nn.Linear(2, 4)), nn.Sequential(nn.Linear(2, 2))
        >>> plan_of(note_cut(small, whole, plan)).kept
        {'0': (0, 2)}
    """
    origin = origin_of(model)
    if origin is not None:
        return set_origin(pruned, origin.cut(plan))
    before: Plan | None = getattr(model, _CUT, None)
    object.__setattr__(pruned, _CUT, plan if before is None else before.then(plan))
    return pruned


def note_blocks(shallower: nn.Module, model: nn.Module, blocks: Mapping[str, str]) -> nn.Module:
    """Note removed blocks on a network and return it; decisions of the plan about their layers are dropped.

    Args:
        shallower: The network without the blocks.
        model: The network that they were removed from.
        blocks: By name, the activation that is left in the place of the block.

    Example:
        >>> whole, small = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Identity())
        >>> blocks_of(note_blocks(small, whole, {"0": ""}))
        {'0': ''}
    """

    def left(plan: Plan | None) -> Plan | None:
        if plan is None:
            return None
        inside = tuple(f"{name}." for name in blocks)
        kept = {
            name: replace(decision, coupled=tuple(one for one in decision.coupled if not one.startswith(inside)))
            for name, decision in plan.decisions.items()
            if not name.startswith(inside)
        }
        return replace(plan, decisions=kept)

    together = {**blocks_of(model), **blocks}
    origin = origin_of(model)
    if origin is not None:
        return set_origin(shallower, replace(origin, plan=left(origin.plan), blocks=together))
    object.__setattr__(shallower, _BLOCKS, together)
    if hasattr(model, _CUT):
        object.__setattr__(shallower, _CUT, left(getattr(model, _CUT)))
    return shallower


def blocks_of(model: nn.Module) -> dict[str, str]:
    """Return the blocks that are noted as removed, by name the activation in the place of each.

    Example:
        >>> blocks_of(nn.Linear(2, 2))
        {}
    """
    origin = origin_of(model)
    return dict(getattr(model, _BLOCKS, {}) if origin is None else origin.blocks)


def carry_notes(copy: nn.Module, model: nn.Module) -> nn.Module:
    """Copy the notes of a network to another one of the same shape, and return the latter.

    Example:
        >>> network = set_origin(nn.Linear(2, 2), Origin("my.linear", (2, 1, 1)))
        >>> origin_of(carry_notes(nn.Linear(2, 2), network)).architecture
        'my.linear'
    """
    for attribute in (_ATTRIBUTE, _CUT, _BLOCKS):
        if hasattr(model, attribute):
            object.__setattr__(copy, attribute, getattr(model, attribute))
    return copy


def plan_of(model: nn.Module) -> Plan | None:
    """Return every cut that is noted on a network, in the indices of the uncut one; ``None`` where there is none.

    Example:
        >>> plan_of(nn.Linear(2, 2)) is None
        True
    """
    origin = origin_of(model)
    return getattr(model, _CUT, None) if origin is None else origin.plan
