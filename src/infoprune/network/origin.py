"""Where a network comes from: enough to build it again from nothing but a file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError
from infoprune.plan import Plan

_ATTRIBUTE = "_infoprune_origin"


@dataclass(frozen=True)
class Origin:
    """How a network is built, and what was cut from it since.

    Args:
        architecture: A zoo name, ``timm:NAME``, ``torchvision:NAME`` or ``package.module:function``.
        input_shape: ``(C, H, W)`` of one image.
        arguments: JSON values given to the architecture's function.
        preprocessing: What the weights want of their images, where it is known.
        plan: Every cut made so far, in the indices of the uncut network.
    """

    architecture: str
    input_shape: tuple[int, int, int]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    plan: Plan | None = None

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
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """Read an origin from JSON values.

        Raises:
            InputError: The values are not an origin.
        """
        try:
            channels, height, width = (int(size) for size in data["input_shape"])
            preprocessing, plan = data.get("preprocessing"), data.get("plan")
            return cls(
                str(data["architecture"]),
                (channels, height, width),
                dict(data.get("arguments", {})),
                None if preprocessing is None else Preprocessing.from_dict(preprocessing),
                None if plan is None else Plan.from_dict(plan),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise (
                error if isinstance(error, InputError) else InputError(f"the origin cannot be read: {error}")
            ) from None


def set_origin(model: nn.Module, origin: Origin) -> nn.Module:
    """Note on a network where it comes from; copies of the network carry the note along. Returns the network."""
    object.__setattr__(model, _ATTRIBUTE, origin)
    return model


def origin_of(model: nn.Module) -> Origin | None:
    """Return where a network comes from, ``None`` for one that infoprune did not build."""
    return getattr(model, _ATTRIBUTE, None)
