"""What feature maps know about the labels, by the blocks that the classes cut a Gram matrix into."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from infoprune.entropy.copies import distinct
from infoprune.entropy.distances import Distances, Which, check_variables, is_wide
from infoprune.entropy.kernels import Kernel, KernelRule, cosine_factor, gram_of
from infoprune.entropy.labels import ClassBlocks, Convention, LabelKernel, class_blocks, label_spectrum
from infoprune.entropy.renyi import Unit, in_unit
from infoprune.entropy.spectrum import (
    check_order,
    eigenvalues,
    eigenvalues_of_copies,
    is_power,
    nats_of_gram,
    nats_of_power,
    nats_of_spectrum,
    trace_of_power,
)
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.widths import Width
from infoprune.errors import InputError


def relevance(
    maps: Tensor | Distances,
    labels: Tensor,
    alpha: float = 1.01,
    width: Width = "median",
    *,
    kernel: Kernel = "gaussian",
    convention: Convention = "2s2",
    label_kernel: LabelKernel = "indicator",
    unit: Unit = "bits",
) -> Tensor:
    """Return the information I(X_c; Y) each feature map carries about the labels.

    Args:
        maps: ``(C, n, d)``; feature maps ``(n, C, H, W)`` become this by :func:`~infoprune.entropy.variables`. Or,
            for a Gaussian kernel, the distances between the samples of each map.
        labels: ``(n,)`` class indices.
        alpha: Order in (0, inf].
        width: As for :func:`~infoprune.entropy.gram`.
        kernel: As for :func:`~infoprune.entropy.gram`.
        convention: As for :func:`~infoprune.entropy.gram`; also of the label kernel.
        label_kernel: ``"indicator"``, ``"silverman"`` or a width on one-hot labels.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(C,)`` float64. A dead map has 0; copies of a map have the same value to the bit.

    Raises:
        InputError: Shapes do not fit, values are not finite, or a name is unknown.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[0.0], [1.0], [0.0], [1.0]], [[0.0], [0.0], [9.0], [9.0]]])
        >>> relevance(maps, torch.tensor([0, 0, 1, 1])).argmax().item()
        1
    """
    check_order(alpha)
    values = maps.values if isinstance(maps, Distances) else maps
    check_samples(values, labels)
    check_variables(values)
    labels = labels.to(maps.device)
    blocks = class_blocks(labels, label_kernel, convention)
    rule = KernelRule(kernel, width, convention, labels)
    first, of_first = distinct(maps.squared() if isinstance(maps, Distances) else maps)
    left = _left_of_maps(maps, None if len(first) == len(maps) else first, rule, blocks, alpha)
    return (label_entropy(blocks, alpha) - left[of_first]) * in_unit(unit)


def _left_of_maps(
    maps: Tensor | Distances, some: Tensor | None, rule: KernelRule, blocks: ClassBlocks, alpha: float
) -> Tensor:
    """Equivocations in nats of some of the maps, or of all; a width that all maps decide is that of all."""
    count, n, d = maps.shape if some is None else (len(some), *maps.shape[1:])
    # Distances are taken of wide samples in pieces: it is the Gram matrices that fill the cache.
    shape = (count, n, d if rule.kernel == "cosine" else n)

    def which(part: slice) -> Which:
        return part if some is None else some[part]

    def chunked(work: Callable[[Which], Tensor], caches: int = 1) -> Tensor:
        return in_chunks(lambda part: work(which(part)), shape, maps.device, caches)

    if alpha == 2:
        # Single precision: its rounding is below a millionth of a bit here.
        squares = gram_of(maps, rule, torch.float32, power=2)
        members = torch.empty_like(blocks.members).index_copy_(0, blocks.order, blocks.members).float()
        sums = chunked(lambda part: sums_of_squares(squares(part), members))
        return equivocation_of_sums(sums, blocks.outside)
    if isinstance(maps, Tensor) and rule.kernel == "cosine" and d + 1 < n and not blocks.outside:
        return chunked(lambda part: _left_by_covariance(maps[part][:, blocks.order], blocks, alpha))
    grams = gram_of(maps, rule, torch.float64, order=blocks.order)
    if is_power(alpha):
        return chunked(lambda part: equivocation(grams(part), blocks, alpha))
    spectra = chunked(lambda part: _spectra(grams(part), blocks), caches=1 if is_wide(maps) else 2)
    return _left_of_spectra(spectra, alpha)


def label_entropy(blocks: ClassBlocks, alpha: float) -> float:
    """Return S(Y) in nats.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> round(label_entropy(class_blocks(torch.tensor([0, 0, 1, 1])), alpha=1.0), 4)
        0.6931
    """
    return _label_entropy(blocks.counts, blocks.outside, alpha)


@functools.lru_cache(maxsize=16)
def _label_entropy(counts: tuple[int, ...], outside: float, alpha: float) -> float:
    # Layer after layer has the same labels.
    return float(nats_of_spectrum(label_spectrum(counts, outside), alpha))


def equivocation(K: Tensor, blocks: ClassBlocks, alpha: float) -> Tensor:
    """Return S(X,Y) - S(X), the remaining label entropy given X, in nats.

    Args:
        K: ``(B, n, n)`` Gram matrices, unit diagonal, whose samples are sorted by class. They are overwritten.
        blocks: The classes.
        alpha: Order in (0, inf].

    Returns:
        ``(B,)``.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> blocks = class_blocks(torch.tensor([0, 0, 1, 1]))
        >>> round(equivocation(torch.ones(1, 4, 4).double(), blocks, alpha=1.0).item(), 4)
        0.6931
    """
    if alpha == 2:
        return equivocation_of_sums(sums_of_squares(K.square(), blocks.members.to(K.dtype)), blocks.outside)
    if is_power(alpha):
        return _joint_of_power(K, blocks, int(alpha)) - nats_of_gram(K, alpha)
    return _left_of_spectra(_spectra(K, blocks), alpha)


def sums_of_squares(squares: Tensor, members: Tensor) -> Tensor:
    """Return the sums of ``(B, n, n)`` entries over the pairs of one class, and over all, ``(B, 2)`` float64.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> members = class_blocks(torch.tensor([0, 0, 1, 1])).members
        >>> sums_of_squares(torch.ones(1, 4, 4).double(), members).tolist()
        [[8.0, 16.0]]
    """
    by_class = (members.mT.contiguous() @ squares @ members).double()
    return torch.stack([by_class.diagonal(dim1=-2, dim2=-1).sum(dim=-1), by_class.sum(dim=(-2, -1))], dim=-1)


def equivocation_of_sums(sums: Tensor, outside: float) -> Tensor:
    """Return :func:`equivocation` of order 2 from the :func:`sums_of_squares` of entries, unit diagonal.

    It is log(1 + (1-r^2) b / (a + r^2 b)), a and b the sums over all pairs of samples of one class, each with itself
    too, and of two.

    Example:
        >>> round(equivocation_of_sums(torch.tensor([[8.0, 16.0]]).double(), outside=0.0).item(), 4)
        0.6931
    """
    own = sums[..., 0]
    between = sums[..., 1] - own
    r2 = outside**2
    return torch.log1p((1 - r2) * between / (own + r2 * between))


def check_samples(maps: Tensor, labels: Tensor) -> None:
    """Refuse maps and labels that are not of the same samples.

    Raises:
        InputError: They are not.

    Example:
        >>> check_samples(torch.rand(3, 8, 4), torch.arange(9))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the maps and the labels are not of the same samples
    """
    if maps.ndim != 3:
        raise InputError(f"the feature maps have the shape {tuple(maps.shape)}: they must be (C, n, d)")
    if maps.shape[1] != len(labels):
        raise InputError(f"there are {len(labels)} labels for {maps.shape[1]} samples: there must be one for each")


def _left_by_covariance(maps: Tensor, blocks: ClassBlocks, alpha: float) -> Tensor:
    """Equivocation under the cosine kernel U U^T of few features: U^T U has the same eigenvalues and is smaller."""
    factor = cosine_factor(maps.double())
    spectra = [eigenvalues(_smaller_square(factor[:, start:end])) for start, end in blocks.edges]
    joint = nats_of_spectrum(torch.cat(spectra, dim=-1), alpha)
    return joint - nats_of_spectrum(eigenvalues(_smaller_square(factor)), alpha)


def _smaller_square(factor: Tensor) -> Tensor:
    return factor @ factor.mT if factor.shape[-2] <= factor.shape[-1] else factor.mT @ factor


def _spectra(K: Tensor, blocks: ClassBlocks) -> Tensor:
    """The eigenvalues of the joint with the labels and of K, ``(B, 2, n)``, which K is overwritten for.

    Under the indicator those of K o K_Y are those of its class blocks; otherwise K o K_Y is of full size.
    """
    if blocks.outside:
        joint = eigenvalues(_joint_matrix(K, blocks), overwrite=True)
    else:
        joint = torch.cat([eigenvalues(each).flatten(-2) for each in _blocks_by_size(K, blocks)], dim=-1)
    return torch.stack([joint, eigenvalues_of_copies(K, overwrite=True)], dim=-2)


def _left_of_spectra(spectra: Tensor, alpha: float) -> Tensor:
    joint, alone = nats_of_spectrum(spectra, alpha).unbind(dim=-1)
    return joint - alone


def _joint_of_power(K: Tensor, blocks: ClassBlocks, alpha: int) -> Tensor:
    if blocks.outside:
        return nats_of_gram(_joint_matrix(K, blocks), alpha)
    traces = torch.stack([trace_of_power(each, alpha).sum(dim=-1) for each in _blocks_by_size(K, blocks)]).sum(dim=0)
    return nats_of_power(traces, torch.full_like(traces, blocks.samples), alpha)


def _joint_matrix(K: Tensor, blocks: ClassBlocks) -> Tensor:
    """K o K_Y = (1 - r) blockdiag(K) + r K."""
    same = (blocks.members @ blocks.members.T).bool()
    return torch.where(same, K, K * blocks.outside)


def _blocks_by_size(K: Tensor, blocks: ClassBlocks) -> list[Tensor]:
    """The blocks ``(B, how many, size, size)`` of each size."""
    sizes = sorted(set(blocks.counts))
    if len(sizes) == 1:
        tiles = K.reshape(-1, len(blocks.counts), sizes[0], len(blocks.counts), sizes[0])
        return [tiles.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)]
    return [
        torch.stack([K[:, start:end, start:end] for start, end in blocks.edges if end - start == size], dim=1)
        for size in sizes
    ]
