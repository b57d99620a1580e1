"""Second moments of what the layers that read a coupled group receive, for criteria that refit those layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.criteria.base import Importance
from infoprune.data.batches import (
    Batches,
    FirstImages,
    examples_of,
    images_of,
    in_smaller,
    number_of_batches,
    parse,
    some_batches,
)
from infoprune.device import device_of, place_of
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, in_passes
from infoprune.network.equivalence import copied
from infoprune.network.layer_io import Reading, Watch, is_convolution_without_window
from infoprune.progress import Progress
from infoprune.regression.few_samples import FewSamples, Samples, are_few
from infoprune.regression.layer_fit import add_positions, norm_scale, positions_of
from infoprune.regression.normal_equations import Equations, NormalEquations
from infoprune.regression.patches import as_matrix, features_of, weight_of
from infoprune.regression.portions import PORTIONS, Portions
from infoprune.regression.products import Products
from infoprune.runs.together import current

# Share of the mean square below which a variance is rounding error of float64.
_CONSTANT = 1e-12
MEMORY = 1 << 30
# Images of a forward pass at most.
_AT_A_TIME = 64
# Images on which the variance of a layer's result is measured.
_PROBE = 16


@dataclass(frozen=True)
class ReaderPart:
    """One group of channels of one layer that reads a coupled group.

    Args:
        gram: ``(F, F)`` float64, the covariance of its features; zero for those that never change. ``None`` where
            there are few samples.
        count: Of how many positions.
        weights: ``(F, O)`` float64, the weights times the scale of the norm that follows.
        rows: By unit of the coupled group, which of the F features are its own.
        worth: The variance of what the layer's result becomes part of, by which squared errors are divided.
        samples: ``(n, F)`` float64, the features about their means, where there are few samples.
        error: The squared Frobenius distance of the covariance from that of all images there could be, as portions of
            the images show it; ``None`` where they cannot be compared.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> ReaderPart(eye, 9, eye, (torch.tensor([0]), torch.tensor([1])), worth=1.0).count
        9
    """

    gram: Tensor | None
    count: int
    weights: Tensor
    rows: tuple[Tensor, ...]
    worth: float
    samples: Tensor | None = None
    error: float | None = None

    def covariance(self) -> Tensor:
        """Return ``(F, F)``, the covariance of the features."""
        if self.samples is None:
            assert self.gram is not None
            return self.gram
        return self.samples.mT @ self.samples / self.count


Scoring = Callable[[CoupledGroup, Sequence[ReaderPart]], Importance]


@dataclass(frozen=True)
class ByReaders:
    """Scores coupled groups by what the layers that read them receive.

    The images are read as often as the second moments need room; several processes divide the batches and the groups.

    Args:
        criterion: Its name, for messages.
        stage: What is done with the moments, for progress.
        memory: Bytes of second moments held at once.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> from infoprune.progress import silent
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> def weighed(group, parts):
        ...     return Importance(torch.ones(group.filters) * len(parts))
        >>> of = ByReaders("weighed", "scoring")
        >>> of.score(net, find_groups(net, images).groups[:1], [images], weighed, silent)["features.0"].scores[0].item()
        1.0
    """

    criterion: str
    stage: str
    memory: int = MEMORY

    @torch.no_grad()
    def score(
        self, model: nn.Module, groups: Sequence[CoupledGroup], batches: Batches, scoring: Scoring, progress: Progress
    ) -> dict[str, Importance]:
        """Return the importance by group, in their order.

        Args:
            model: The network; left as it is.
            groups: What to score.
            batches: Images, with or without labels, iterable more than once.
            scoring: From a group and the parts of its readers to its importance.
            progress: Called after every batch and every group.

        Raises:
            InputError: A group is read by no convolution or linear layer, or there are no images.
        """
        model = copied(model)
        images = FirstImages(batches).most_images()
        # A few large batches would be too few portions to be compared.
        most = min(_AT_A_TIME, max(1, -(-images // PORTIONS)))
        batches = in_smaller(batches, lambda _: most, most)
        behind = self._behind_readers(model, groups, batches)
        readers = {group.name: [layer for layer in self._readers(model, group) if layer in behind] for group in groups}
        found: dict[str, Importance] = {}
        few = {name for name, one in behind.items() if one.flat and are_few(images, _features(model, name))}
        size = {name: sum(_bytes_of(model, layer, images if layer in few else None) for layer in layers)
                for name, layers in readers.items()}  # fmt: skip
        passes = in_passes(groups, lambda group: size[group.name], self.memory)
        processes = current()
        for number, some in enumerate(passes):
            owners = processes.owners({group.name: float(len(group.units) * size[group.name]) for group in some})
            layers = {layer: sorted({owners[group.name] for group in some if layer in readers[group.name]})
                      for group in some for layer in readers[group.name]}  # fmt: skip
            report = _PassProgress(progress, number, len(passes))
            moments = self._moments(model, layers, few, batches, images, report)
            own: dict[str, Importance] = {}
            for group in some:
                if owners[group.name] != processes.rank:
                    continue
                parts = [one for layer in readers[group.name]
                         for one in _parts(model, group, layer, *moments[layer], behind[layer])]  # fmt: skip
                own[group.name] = scoring(group, parts)
                progress(self.stage, len(found) + len(own), len(groups))
            for part in processes.exchanged(own):
                found |= part
        return {group.name: found[group.name] for group in groups}

    def _behind_readers(self, model: nn.Module, groups: Sequence[CoupledGroup], batches: Batches) -> dict[str, _Behind]:
        """Return by layer that reads one of the groups what comes behind it; some layers run in train mode only."""
        asked = {layer for group in groups for layer in self._readers(model, group)}
        found = _behind(model, list(asked), _first_images(batches, model))
        if not found.keys() >= asked:  # some run on images of another size only
            for images in examples_of(batches, model):
                found = {**_behind(model, list(asked), images), **found}
        for group in groups:
            if not found.keys() & set(self._readers(model, group)):
                raise self._unread(group)
        return found

    def _readers(self, model: nn.Module, group: CoupledGroup) -> list[str]:
        readers = [member.layer for member in group.members
                   if member.side == "in" and is_reader(model.get_submodule(member.layer))]  # fmt: skip
        if not readers:
            raise self._unread(group)
        return readers

    def _unread(self, group: CoupledGroup) -> InputError:
        return InputError(
            f"layer '{group.name}' is read by no convolution or linear layer: '{self.criterion}' cannot score it"
        )

    def _moments(
        self,
        model: nn.Module,
        layers: Mapping[str, Sequence[int]],
        few: Collection[str],
        batches: Batches,
        images: int,
        report: _PassProgress,
    ) -> dict[str, tuple[Equations, Tensor | None]]:
        """Return by layer the second moments of its features, at some positions of all images, and their error.

        ``layers`` holds by layer the ranks of the processes that receive its moments, ``few`` those whose samples are
        kept in place of these.
        """
        shapes = {layer: (*_matrix(model.get_submodule(layer)).shape[:2], 0) for layer in layers}
        total = number_of_batches(batches)
        found = Portions(shapes, total, device_of(model), layers, few, compared=True)
        # Both are those of the present batch.
        products: Mapping[str, Products | Samples] = {}
        drawn = torch.Generator()

        def take(layer: str, reading: Reading) -> None:
            self._check(model, layer, reading)
            every, inputs = torch.arange(len(reading.inputs), device=reading.inputs.device), reading.inputs
            if isinstance(model.get_submodule(layer), _ConvTransposeNd):
                inputs = inputs.movedim(1, -1)
            most = positions_of(images, shapes[layer][1])
            add_positions(products[layer], reading.window, inputs, None, every, drawn, most)

        watch = Watch(model, list(layers), take)
        with watch.hooks():
            for number, batch in some_batches(batches, found.share):
                products, drawn = found.products(number), torch.Generator().manual_seed(number)
                for some in torch.split(parse(batch).placed(*place_of(model)), _AT_A_TIME):
                    with watch:
                        watch.finish(model(some))
                    watch.waiting = []
                report(number + 1, max(number + 1, total))
        equations, errors = found.equations(), found.sampling_errors()
        return {layer: (one, errors[layer]) for layer, one in equations.items()}

    def _check(self, model: nn.Module, layer: str, reading: Reading) -> None:
        module = model.get_submodule(layer)
        if is_convolution_without_window(module, reading) and not isinstance(module, _ConvTransposeNd):
            raise InputError(
                f"'{self.criterion}' cannot score what layer '{layer}' reads: its forward does not convolve with its "
                "own weight; choose another criterion, or skip the layers before it"
            )


def is_reader(module: nn.Module) -> bool:
    """Return whether a layer is linear in what it reads at one position or in a window.

    Example:
        >>> is_reader(nn.Conv2d(2, 4, 3)), is_reader(nn.ConvTranspose2d(2, 4, 2)), is_reader(nn.BatchNorm2d(2))
        (True, True, False)
    """
    if isinstance(module, _ConvTransposeNd):
        return module.groups == 1
    return isinstance(module, (nn.Linear, _ConvNd))


def _matrix(module: nn.Module) -> Tensor:
    """Return the weight as ``(g, F, O)`` float64; of a transposed convolution for one position of its input.

    Such a position adds to all places of the kernel, and the output has as many positions for it as the stride says.
    """
    if isinstance(module, _ConvTransposeNd):
        taps: Tensor = weight_of(module).double().flatten(1)[None]
        return taps.div(prod(module.stride) ** 0.5)
    return as_matrix(module)


def mean_square(gram: Tensor) -> Tensor:
    """Return the mean diagonal of ``(F, F)`` second moments, above zero: the unit of a ridge.

    Example:
        >>> mean_square(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))).item()
        2.0
    """
    return mean_of(gram.diagonal())


def mean_of(variances: Tensor) -> Tensor:
    """Return the mean of the variances of features, above zero: the unit of a ridge.

    Example:
        >>> mean_of(torch.tensor([1.0, 3.0], dtype=torch.float64)).item()
        2.0
    """
    return variances.mean().clamp_min(torch.finfo(torch.float64).tiny ** 0.25)


def _first_images(batches: Batches, model: nn.Module) -> Tensor:
    """Return the first images of one shape, from as many batches as they take: one image has no variance."""
    found: list[Tensor] = []
    for images in images_of(FirstImages(batches, _PROBE), model):
        if not found or images.shape[1:] == found[0].shape[1:]:
            found.append(images)
    return torch.cat(found)


@dataclass(frozen=True)
class _PassProgress:
    progress: Progress
    number: int
    passes: int

    def __call__(self, done: int, total: int) -> None:
        self.progress("second moments", self.number * total + done, max(self.passes * total, done))


@dataclass(frozen=True)
class _Behind:
    """What follows a layer: its norm's scale, ``(g, 1, O)``, and the variance of what its result is part of.

    ``flat`` says whether the layer reads one vector of each image.
    """

    scale: Tensor
    worth: float
    flat: bool


def _behind(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, _Behind]:
    """Return by layer what comes behind it, from one forward pass of a few images."""
    found = {}

    def note(layer: str, reading: Reading) -> None:
        module = model.get_submodule(layer)
        whole = reading.result if reading.added is None else reading.result + reading.added
        axis = whole.dim() - 1 if isinstance(module, nn.Linear) else 1
        rows = whole.double().transpose(0, axis).flatten(1)
        worth = max(float(rows.var(dim=1, unbiased=False).sum()), torch.finfo(torch.float64).tiny)
        scale = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        if reading.norm:
            norm = model.get_submodule(reading.norm)
            assert isinstance(norm, _BatchNorm)
            scale = norm_scale(norm)
        scale = scale.reshape(module.groups if isinstance(module, _ConvNd) else 1, 1, -1)
        found[layer] = _Behind(scale, worth, reading.window is None and reading.inputs.dim() == 2)

    watch = Watch(model, layers, note)
    with watch.hooks(), watch:
        watch.finish(model(images))
    return found


def _features(model: nn.Module, layer: str) -> int:
    return _matrix(model.get_submodule(layer)).shape[1]


def _bytes_of(model: nn.Module, layer: str, samples: int | None) -> int:
    """Return the bytes of the second moments of a layer, or of that many samples."""
    groups, features, _ = _matrix(model.get_submodule(layer)).shape
    return 8 * groups * features * (features if samples is None else samples)


def _parts(
    model: nn.Module, group: CoupledGroup, layer: str, moments: Equations, errors: Tensor | None, behind: _Behind
) -> list[ReaderPart]:
    module = model.get_submodule(layer)
    weights = _matrix(module)
    weights = weights * behind.scale.repeat_interleave(weights.shape[2] // behind.scale.shape[2], dim=2)
    member = next(one for one in group.members if one.layer == layer and one.side == "in")
    parts = []
    samples = moments.centred() if isinstance(moments, FewSamples) else None
    grams = _varying(moments) if isinstance(moments, NormalEquations) else [None]
    for number, (gram, mine) in enumerate(zip(grams, weights, strict=True)):
        first = number * len(mine)
        rows = []
        for unit in group.units:
            channels = member.channels_of(unit)
            transposed = isinstance(module, _ConvTransposeNd)
            features = (torch.tensor(channels) if transposed else features_of(module, channels)) - first
            rows.append(features[(features >= 0) & (features < len(mine))].to(mine.device))
        error = None if errors is None else float(errors[number])
        parts.append(ReaderPart(gram, moments.count, mine, tuple(rows), behind.worth, samples, error))
    return parts


def _varying(moments: NormalEquations) -> Tensor:
    """Return ``(g, F, F)``: the covariance of the features, zero for those that never change.

    What centring leaves of a constant is rounding error, which is no covariance and has no inverse.
    """
    gram = moments.moments(centred=True)
    mean_squares = moments.gram.diagonal(dim1=1, dim2=2) / max(1, moments.count)
    varies = gram.diagonal(dim1=1, dim2=2) > _CONSTANT * mean_squares
    return gram if varies.all() else gram.mul_(varies[:, :, None]).mul_(varies[:, None, :])
