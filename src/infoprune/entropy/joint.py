"""The joint Gram matrix of the maps selected so far, grown one map at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.kernels import exp_
from infoprune.errors import unknown

JointForm: TypeAlias = Literal["product", "mean"]


@dataclass(frozen=True)
class Joint:
    """A running joint of Gram matrices.

    Args:
        form: ``"product"``: Hadamard product. ``"mean"``: geometric mean, K_1^(1/t) o ... o K_t^(1/t), whose width
            does not shrink as maps join.
        state: ``(n, n)`` float64: the product, or the sum of the logarithms.
        members: Number of maps in it.

    Example:
        >>> Joint("product", torch.ones(2, 2).double()).members
        0
    """

    form: JointForm
    state: Tensor
    members: int = 0


def empty_joint(form: JointForm, samples: int, device: torch.device) -> Joint:
    """Return the joint of no variable: all ones.

    Raises:
        InputError: The form is unknown.

    Example:
        >>> matrix(empty_joint("product", 2, torch.device("cpu"))).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    if form not in {"product", "mean"}:
        raise unknown("form of the joint", str(form), ["product", "mean"])
    neutral = torch.ones if form == "product" else torch.zeros
    return Joint(form, neutral(samples, samples, dtype=torch.float64, device=device))


def add(joint: Joint, K: Tensor) -> Joint:
    """Return the joint with one more ``(n, n)`` Gram matrix; under ``"mean"``, its logarithm.

    Example:
        >>> K = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> once = add(empty_joint("product", 2, torch.device("cpu")), K)
        >>> matrix(add(once, K)).tolist()
        [[1.0, 0.25], [0.25, 1.0]]
    """
    if joint.form == "mean":
        return Joint("mean", joint.state + K, joint.members + 1)
    product = joint.state * K
    # The entries of K are 0 or above 1e-131: their products stay numbers that processors are quick with.
    return Joint("product", torch.where(product.abs() < 1e-150, 0.0, product), joint.members + 1)


def with_each(joint: Joint, K: Tensor) -> Tensor:
    """Return the joint Gram matrices ``(B, n, n)`` with each of ``(B, n, n)``, as for :func:`add`, added alone.

    Example:
        >>> K = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
        >>> with_each(empty_joint("product", 2, torch.device("cpu")), K).tolist()
        [[[1.0, 0.5], [0.5, 1.0]]]
    """
    if joint.form == "mean":
        return exp_((joint.state + K) / (joint.members + 1))
    return joint.state * K


def matrix(joint: Joint) -> Tensor:
    """Return the ``(n, n)`` Gram matrix of the joint.

    Example:
        >>> matrix(Joint("product", torch.eye(2).double(), members=1)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return joint.state if joint.form == "product" else exp_(joint.state / max(joint.members, 1))
