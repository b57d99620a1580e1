"""Tests that a cut network computes the same as the whole one with the removed filters at zero."""

from __future__ import annotations

import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.coupled_groups import Examples, Groups, find_groups
from infoprune.network.surgery import apply, removal_of
from infoprune.plan import Plan


class VerificationError(RuntimeError):
    """A cut network computes something else than the whole one with the removed filters at zero.

    Example:
        >>> issubclass(VerificationError, RuntimeError)
        True
    """


def verify(
    plan: Plan,
    model: nn.Module,
    example: Examples,
    pruned: nn.Module | None = None,
    tolerance: float = equivalence.TOLERANCE[torch.float32],
    *,
    groups: Groups | None = None,
) -> float:
    """Compare the cut network with the whole one whose removed channels are held at zero, in eval mode.

    Neither network is changed: all work is done on copies.

    Args:
        plan: The kept filters.
        model: The whole network.
        example: ``(n, ...)`` the batch to compare on, or one of each shape; noise is added to a constant one.
        pruned: The cut network, with the weights of the whole one; by default the plan is applied here.
        tolerance: Largest difference allowed, relative to the largest absolute output.
        groups: What ``find_groups`` returned for this network, if known.

    Returns:
        The largest absolute difference of any output.

    Raises:
        VerificationError: The difference is above the tolerance, or the cut network does not run.
        InputError: The plan is not for this network.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
        >>> from infoprune.plan import LayerDecision
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> verify(plan, net, torch.rand(2, 1, 8, 8)) < 1e-5
        True
    """
    groups = groups or find_groups(model, example, check=False)
    removal = removal_of(plan, groups, model)
    small = apply(plan, model, example, groups=groups, check=False) if pruned is None else pruned
    reference = equivalence.masked(model, removal)
    runner = equivalence.copied(small)
    largest = 0.0
    for one in equivalence.batches_of(example):
        one = equivalence.varied(equivalence.placed(one, reference))
        whole = equivalence.outputs(reference, one)
        if not whole:
            raise InputError("the network returns no tensor: wrap it so that it returns its outputs")
        try:
            difference, scale = equivalence.compare(whole, equivalence.outputs(runner, one))
        except Exception as error:
            raise VerificationError(f"the cut network does not run: {equivalence.one_line(error)}") from error
        if not difference <= tolerance * scale:
            raise VerificationError(
                f"the cut network differs from the masked one by {difference:.3g} where outputs reach {scale:.3g}: "
                f"at most {tolerance:g} of that is rounding"
            )
        largest = max(largest, difference)
    return largest
