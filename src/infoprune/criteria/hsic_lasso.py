"""APIB: the channels whose kernels explain that of the next layer's output, by HSIC-Lasso (Guo et al., ICCV 2023).

For a layer that reads the channels, X_c channel c of its input over n images, flat, d numbers each, and Y its output,
flat, before any norm, D numbers each::

    K_c[i, j] = exp(-||X_c[i] - X_c[j]||^2 / d),   L[i, j] = exp(-||Y[i] - Y[j]||^2 / D),   both centred: H K H
    minimise over b >= 0   1 / (2 n^2) ||L - sum_c b_c K_c||_F^2 + alpha sum_c |b_c|

The paper bisects one alpha for the whole network until the budget is met. Here the whole path is computed from
G = <K_c, K_d> / n^2 and <K_c, L> / n^2, and the score of a filter is the largest alpha at which its coefficient is not
zero. Since alpha is one number for all layers, scores compare between groups and an ordinary budget does the same. The
sums of G and <K_c, L> over the layers that read a group are taken. Two equal channels enter the path together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches, images_of, parse
from infoprune.entropy.ties import bound_of_maps, snapped
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import CoupledGroup, Member
from infoprune.network.equivalence import copied
from infoprune.network.layers import is_producer
from infoprune.progress import Progress, silent

Target = Literal["output", "labels"]

# Channels whose kernels differ by less than this, relative to the largest, are copies.
_COPY = 1e-9


@torch.no_grad()
def hsic_lasso(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    images: int = 64,
    positive: bool = True,
    target: Target = "output",
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Images, with or without labels.
        images: How many of them are used: kernels are images x images.
        positive: Whether coefficients are kept at or above 0, as HSIC-Lasso asks; the published code does not.
        target: ``"output"``, or ``"labels"`` to explain which images are of one class.
        progress: Called after every group.

    Returns:
        By the names of the groups. The evidence holds ``dependence`` ``(C,)``, <K_c, L> / n^2, which orders the
        filters that never enter.

    Raises:
        InputError: A group is read by no layer, there are fewer than 2 images, or an option is out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> found = hsic_lasso(net, find_groups(net, images).groups[:1], [images], images=16)
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """
    if target not in get_args(Target):
        raise unknown("target of the criterion 'hsic-lasso'", str(target), get_args(Target))
    if isinstance(images, bool) or not isinstance(images, int) or images < 2:
        raise InputError(f"kernels compare at least 2 images, not {images!r}")
    twin = copied(model)
    first, labels = _first_images(twin, batches, images, labelled=target == "labels")
    found = {}
    for done, group in enumerate(groups, 1):
        kernels, wanted = zip(*(_kernels(twin, group, member, first) for member in _readers(twin, group)), strict=True)
        if labels is not None:
            wanted = (_centred((labels[:, None] == labels).double()),) * len(kernels)
        found[group.name] = _importance(kernels, wanted, positive=positive)
        progress("lasso paths", done, len(groups))
    return found


def entry_points(gram: Tensor, dependence: Tensor, *, positive: bool = True) -> Tensor:
    """Return the largest alpha at which each coefficient of a lasso path is not zero; 0 where it never is.

    The lasso is 1/2 b^T G b - q^T b + alpha sum |b|.

    Args:
        gram: ``(C, C)`` G, positive semi-definite.
        dependence: ``(C,)`` q.
        positive: Whether b >= 0.

    Example:
        >>> entry_points(torch.eye(2, dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)).tolist()
        [2.0, 0.0]
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram

    scale = float(dependence.abs().max())
    if not scale:
        return torch.zeros_like(dependence)
    # In units of the largest dependence, since the solver has absolute tolerances.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        alphas, _, path = lars_path_gram(
            Xy=(dependence / scale).numpy(), Gram=(gram / scale).numpy(), n_samples=1, method="lasso",
            positive=positive, max_iter=8 * len(dependence) + 8,
        )  # fmt: skip
    entered = np.abs(path) > 0
    first = np.where(entered.any(axis=1), entered.argmax(axis=1), 0)
    points = np.where(entered.any(axis=1), alphas[np.maximum(first - 1, 0)], 0.0)
    return torch.from_numpy(points * scale)


def centred_kernels(rows: Tensor) -> Tensor:
    """Return ``(C, n, n)`` float64: H K_c H of ``(C, n, d)`` rows, K_c = exp(-squared distance / d).

    Example:
        >>> [round(value, 6) for value in centred_kernels(torch.tensor([[[0.0], [1.0]]])).flatten().tolist()]
        [0.31606, -0.31606, -0.31606, 0.31606]
    """
    rows = rows.double()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return _centred((-distances / rows.shape[-1]).exp())


def _centred(kernel: Tensor) -> Tensor:
    """H K H; a kernel that is the same everywhere becomes exactly 0."""
    away = kernel - kernel.mean(dim=-1, keepdim=True)
    away = away - away.mean(dim=-2, keepdim=True)
    constant = (kernel == kernel[..., :1, :1]).flatten(-2).all(dim=-1)[..., None, None]
    return torch.where(constant, 0.0, away)


def _importance(kernels: Sequence[Tensor], wanted: Sequence[Tensor], *, positive: bool) -> Importance:
    size = wanted[0].numel()
    flat = [one.flatten(1) for one in kernels]
    gram = sum(one @ one.T for one in flat) / size
    dependence = sum(one @ target.flatten() for one, target in zip(flat, wanted, strict=True)) / size
    assert isinstance(gram, Tensor)
    assert isinstance(dependence, Tensor)
    stands_for = _copies(torch.cat(flat, dim=1))
    own = torch.tensor(sorted(set(stands_for)))
    points = torch.zeros_like(dependence)
    points[own] = entry_points(gram[own][:, own], dependence[own], positive=positive)
    points, alike = points[torch.tensor(stands_for)], dependence[torch.tensor(stands_for)]
    out_by = bound_of_maps(alike)
    scores, ranked = snapped(points, out_by), snapped(alike, out_by).tolist()
    order = sorted(range(len(scores)), key=lambda f: (-float(scores[f]), -ranked[f], f))
    return Importance(scores, tuple(order), evidence={"dependence": dependence}, comparable=True, rounding=out_by)


def _copies(kernels: Tensor) -> list[int]:
    """Return of each filter the first one with the same kernel."""
    tolerance = _COPY * float(kernels.abs().max())
    squares = kernels.square().sum(dim=1)
    found: list[int] = []
    for filter_ in range(len(kernels)):
        # Equal kernels have equal norms, so that few are compared.
        near = (squares[:filter_] - squares[filter_]).abs() <= 1e-6 * squares[filter_] + tolerance**2
        same = [one for one in near.nonzero().flatten().tolist() if found[one] == one
                and float((kernels[one] - kernels[filter_]).abs().max()) <= tolerance]  # fmt: skip
        found.append(same[0] if same else filter_)
    return found


def _readers(model: nn.Module, group: CoupledGroup) -> list[Member]:
    readers = [member for member in group.members if member.side == "in"
               and is_producer(model.get_submodule(member.layer))]  # fmt: skip
    if not readers:
        raise InputError(
            f"layer '{group.name}' is read by no convolution or linear layer: 'hsic-lasso' cannot score it"
        )
    return readers


def _first_images(model: nn.Module, batches: Batches, count: int, *, labelled: bool) -> tuple[Tensor, Tensor | None]:
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        classes = parse(batch).classes() if labelled else None
        if classes is not None:
            labels.append(classes)
        elif labelled:
            raise InputError("the target 'labels' needs (images, labels) pairs")
        images.extend(images_of([batch], model))
        if sum(map(len, images)) >= count:
            break
    found = torch.cat(images)[:count] if images else torch.zeros(0)
    if len(found) < 2:
        raise InputError(f"the criterion 'hsic-lasso' compares at least 2 images, not {len(found)}")
    return found, torch.cat(labels)[:count] if labelled else None


def _kernels(model: nn.Module, group: CoupledGroup, member: Member, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred kernels of the group's filters at one reader's input, and that of the reader's output."""
    kept: dict[str, list[Tensor]] = {"inputs": [], "outputs": []}
    module = model.get_submodule(member.layer)

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept["inputs"].append(inputs[0].detach().cpu())
        kept["outputs"].append(output.detach().cpu())

    with module.register_forward_hook(keep):
        model(images)
    if not kept["inputs"]:
        raise InputError(f"layer '{member.layer}' does not run in the network's forward pass")
    axis = -1 if isinstance(module, nn.Linear) else 1
    inputs = torch.cat([_flat(one, axis) for one in kept["inputs"]], dim=2)
    output = torch.cat([one.flatten(1) for one in kept["outputs"]], dim=1)
    rows = [inputs[:, list(some)].flatten(1) if some else inputs.new_zeros(len(inputs), 1) for some in member.channels]
    if len({row.shape for row in rows}) == 1:
        parts = [centred_kernels(torch.stack(rows[first : first + 32])) for first in range(0, len(rows), 32)]
    else:
        parts = [centred_kernels(row[None]) for row in rows]
    return torch.cat(parts), centred_kernels(output[None])[0]


def _flat(tensor: Tensor, axis: int) -> Tensor:
    moved = tensor.movedim(axis, 1)
    return moved.reshape(*moved.shape[:2], -1)


register_network_criterion(
    "hsic-lasso",
    hsic_lasso,
    "when the filter enters the sparse kernel model of what the next layers give",
    paper="Guo et al., ICCV 2023",
    cost="one forward pass of 64 images per layer that reads, then C^2 n^2 for kernels and C^3 for the path",
)
