"""Parts of a training set that never change: the held-out part that chooses, and the calibration sample that scores."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.data.images import Images
from infoprune.errors import InputError

# The held-out part must be the same for every run, whatever its seed, or a later run tunes on what chose the plan.
SPLIT_SEED = 20220202


def held_out_split(images: Images, share: float = 0.1) -> tuple[Images, Images]:
    """Return the training images without the held-out part, and the held-out part, of balanced classes.

    Where every class has too few images for that, the share is of all images, whatever their classes.

    Args:
        images: The whole training set.
        share: Share of each class that is held out, rounded to whole images.

    Raises:
        InputError: The share is none, or one of the parts is empty.

    Example:
        >>> import torch
        >>> from infoprune.data.images import StoredImages
        >>> images = StoredImages(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
        >>> rest, held = held_out_split(images, 0.2)
        >>> len(rest), len(held)
        (16, 4)
    """
    if not 0 < share < 1:
        raise InputError(f"the held-out share lies between 0 and 1, not {share}")
    order = _shuffled_by_class(images.labels, SPLIT_SEED)
    held = torch.cat([members[: round(share * len(members))] for members in order])
    if not len(held):
        everything = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
        held = everything[: max(1, round(share * len(images)))]
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[held] = False
    if not len(held) or not rest.any():
        raise InputError(f"{len(images)} images are too few to hold out a share of {share}: give more images")
    return images.subset(rest.nonzero().squeeze(1)), images.subset(held.sort().values)


def balanced_sample(images: Images, count: int, seed: int = 0) -> Images:
    """Return ``count`` images with classes as even as they can be, in an order that mixes the classes.

    Args:
        images: Where to draw from, without replacement.
        count: Images to draw.
        seed: Another seed, another sample.

    Raises:
        InputError: There are fewer images than that.

    Example:
        >>> import torch
        >>> from infoprune.data.images import StoredImages
        >>> images = StoredImages(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
        >>> balanced_sample(images, 6).labels.bincount().tolist()
        [3, 3]
    """
    return images.subset(_balanced_indices(images, count, seed))


def random_sample(images: Images, count: int, seed: int = 0) -> Images:
    """Return ``count`` images, or all where there are fewer, in random order; labels are not looked at.

    Example:
        >>> import torch
        >>> from infoprune.data.images import StoredImages
        >>> images = StoredImages(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
        >>> len(random_sample(images, 6))
        6
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[:count])


def divided(images: Images, count: int, seed: int = 0) -> tuple[Images, Images]:
    """Return a balanced sample of ``count`` images, and all the other images in their order.

    Raises:
        InputError: There are not more images than that.

    Example:
        >>> import torch
        >>> from infoprune.data.images import StoredImages
        >>> images = StoredImages(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
        >>> chosen, rest = divided(images, 6)
        >>> len(chosen), len(rest)
        (6, 14)
    """
    chosen = _balanced_indices(images, count, seed)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[chosen] = False
    if not rest.any():
        raise InputError(f"a calibration set of {count} images leaves none of the {len(images)} to measure on")
    return images.subset(chosen), images.subset(rest.nonzero().squeeze(1))


def _balanced_indices(images: Images, count: int, seed: int) -> Tensor:
    if not 0 < count <= len(images):
        raise InputError(f"a calibration set of {count} images cannot be drawn from {len(images)}")
    # Round after round one image of every class that has any left, in a new order, so that any first part is balanced.
    order = _shuffled_by_class(images.labels, seed)
    rounds = torch.cat([torch.arange(len(members)) for members in order])
    within = torch.rand(len(rounds), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat(order)[(rounds + within).argsort()[:count]]


def _shuffled_by_class(labels: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    members = [(labels == label).nonzero().squeeze(1) for label in sorted(set(labels.tolist()))]
    return [part[torch.randperm(len(part), generator=generator)] for part in members]
