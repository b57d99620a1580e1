"""The information plane: what each layer knows of the images and of the labels, while a network learns or is pruned.

Sarvani et al. 2022 (arXiv 2202.10716), after Yu et al. (arXiv 1804.06537): the whole output of a layer is one variable.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from infoprune.declarations.validation import check_regular
from infoprune.entropy import alignment_width, gram, label_gram, mutual_information
from infoprune.errors import InputError, unknown
from infoprune.files import write_text, written_whole
from infoprune.network.feature_maps import Tap, capture
from infoprune.network.layers import is_producer

# Width of the Gaussian on the images, and share of the past in the width of a layer, as published.
INPUT_WIDTH = 8.0
PAST = 0.9

_KINDS = (".csv", ".parquet")


@dataclass(frozen=True)
class PlanePoint:
    """One layer at one step.

    Args:
        round: Of the pruning; 0 before the first cut.
        step: Of the training in that round.
        layer: Its name.
        input_bits: I(X;L), information of the layer's output about the images.
        label_bits: I(L;Y), its information about the labels.
        width: Of the layer's Gaussian exp(-d^2 / s^2), smoothed.

    Example:
        >>> PlanePoint(round=0, step=10, layer="conv1", input_bits=6.1, label_bits=2.4, width=0.5).label_bits
        2.4
    """

    round: int
    step: int
    layer: str
    input_bits: float
    label_bits: float
    width: float


class InformationPlane:
    """Notes one point for every layer whenever it is called: in a loop of one's own, or as ``on_step`` of training.

    Args:
        layers: Patterns of layer names; by default every convolution and linear layer.
        tap: Where the maps are read; the layer itself by default, as published for LeNet and ResNets.
        every: Steps between two points.
        images: Largest number of images read of a batch; 100 as published.
        input_width: Width s of the Gaussian exp(-d^2 / s^2) on the images.
        alpha: Order of the entropy.

    Attributes:
        round: Noted with every point; a pruning in rounds counts it up.
        points: All that was noted, in the order of the steps.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> plane = InformationPlane(("conv",), images=16)
        >>> net = nn.Sequential()
        >>> net.add_module("conv", nn.Conv2d(1, 2, 3))
        >>> plane(net, torch.rand(16, 1, 8, 8), torch.arange(16) % 2, step=0)
        >>> plane.points[0].layer, 0 <= plane.points[0].label_bits <= 1
        ('conv', True)
    """

    def __init__(
        self,
        layers: Sequence[str] = (),
        *,
        tap: Tap = "convolution",
        every: int = 1,
        images: int = 100,
        input_width: float = INPUT_WIDTH,
        alpha: float = 1.0,
    ) -> None:
        if every < 1 or images < 2:
            raise InputError(f"a plane takes every 1st, 2nd, ... step and 2 images or more, not {every} and {images}")
        self.patterns, self.tap, self.every, self.images = tuple(layers), tap, every, images
        self.input_width, self.alpha = input_width, alpha
        self.round = 0
        self.points: list[PlanePoint] = []
        self._size = 0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
        """Note where every layer is, unless this step is left out; points of this step or later are replaced.

        A batch of fewer images than the first one, such as the last of an epoch, is left out: its figures would not
        compare.

        Args:
            model: The network; it is read in eval mode and left as it was.
            images: ``(n, C, H, W)`` one batch, as the network reads them.
            labels: ``(n,)`` class indices.
            step: Number of the step in this round.

        Raises:
            InputError: A pattern names no layer, or the images do not fit the network.
        """
        if step % self.every:
            return
        self.rewind(step)
        images, labels = images[: self.images], labels[: self.images]
        self._size = self._size or len(images)
        if len(images) < self._size:
            return
        of_images = gram(images.flatten(1), width=self.input_width, convention="s2")
        of_labels = label_gram(labels)
        found: dict[str, tuple[float, float, float]] = {}

        def consume(layer: str, maps: Tensor, _: Tensor | None) -> None:
            x = maps.flatten(1)
            width = self._width(layer, x, labels)
            K = gram(x, width=width, convention="s2")
            known = [float(mutual_information(K, other, self.alpha)) for other in (of_images, of_labels)]
            found[layer] = (known[0], known[1], width)

        layers = self._layers(model)
        capture(model, [(images, labels)], layers, self.tap, consume)
        self.points += [PlanePoint(self.round, step, layer, *found[layer]) for layer in layers]

    def rewind(self, step: int) -> None:
        """Forget the points of this round at that step or later, and those of later rounds."""
        while self.points and (self.points[-1].round, self.points[-1].step) >= (self.round, step):
            self.points.pop()

    def _layers(self, model: nn.Module) -> list[str]:
        known = [name for name, module in model.named_modules() if is_producer(module)]
        for pattern in self.patterns:
            if not any(fnmatchcase(layer, pattern) for layer in known):
                raise unknown("layer", pattern, known)
        wanted = self.patterns or ("*",)
        return [layer for layer in known if any(fnmatchcase(layer, pattern) for pattern in wanted)]

    def _width(self, layer: str, x: Tensor, labels: Tensor) -> float:
        # 300 grid points at first and 100 from then on, as published.
        past = next((point.width for point in reversed(self.points) if point.layer == layer), None)
        points = 300 if past is None else 100
        return alignment_width(x, labels, points=points, previous=past, decay=PAST)


def averaged(points: Sequence[PlanePoint], window: int) -> list[PlanePoint]:
    """Return one point for every ``window`` points of a layer in a round, their mean, at the step of the last.

    Raises:
        InputError: The window is below 1.

    Example:
        >>> points = [PlanePoint(0, step, "conv1", 6.0 + step, 2.0, 0.5) for step in range(4)]
        >>> [(one.step, one.input_bits) for one in averaged(points, 2)]
        [(1, 6.5), (3, 8.5)]
    """
    if window < 1:
        raise InputError(f"a window holds at least 1 point, not {window}")
    by_layer: dict[tuple[int, str], list[PlanePoint]] = {}
    for point in points:
        by_layer.setdefault((point.round, point.layer), []).append(point)
    means = [_mean(some[start : start + window]) for some in by_layer.values() for start in range(0, len(some), window)]
    place = {layer: i for i, layer in enumerate(dict.fromkeys(point.layer for point in points))}
    return sorted(means, key=lambda point: (point.round, point.step, place[point.layer]))


def check_points_file(path: Path) -> None:
    """Refuse a file that points could not be written to, before any work is done for it.

    Raises:
        InputError: The ending is neither .csv nor .parquet, or pyarrow is missing.

    Example:
        >>> check_points_file(Path("plane.csv"))
        >>> check_points_file(Path("plane.txt"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: points are written as .csv or .parquet
    """
    if _kind(path) == ".parquet":
        _arrow(path)


def write_points(points: Iterable[PlanePoint], path: Path, *, force: bool = False) -> None:
    """Write points as a table, one row a point: CSV, or Parquet where pyarrow is installed, by the file's ending.

    Raises:
        InputError: The ending is neither, pyarrow is missing, or the path cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "plane.csv"
        >>> write_points([PlanePoint(0, 10, "conv1", 6.1, 2.4, 0.5)], file)
        >>> len(file.read_text().splitlines())
        2
    """
    if _kind(path) == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows([astuple(point) for point in points])
        write_text(path, text.getvalue(), force=force)
        return
    arrow, parquet = _arrow(path), importlib.import_module("pyarrow.parquet")
    with written_whole(path, force=force) as temporary:
        parquet.write_table(arrow.Table.from_pylist([asdict(point) for point in points]), temporary)


def read_points(path: Path) -> list[PlanePoint]:
    """Read the points that :func:`write_points` wrote.

    Raises:
        InputError: The file does not exist or holds something else.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "plane.csv"
        >>> write_points([PlanePoint(0, 10, "conv1", 6.1, 2.4, 0.5)], file)
        >>> read_points(file)[0].layer
        'conv1'
    """
    check_regular(path)
    if _kind(path) == ".parquet":
        _arrow(path)
    try:
        rows = _rows(path)
        return [PlanePoint(**{name: kind(row[name]) for name, kind in _COLUMNS.items()}) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError, OSError, csv.Error) as error:
        raise InputError(f"'{path}' holds no points of an information plane: {error}") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    if _kind(path) == ".parquet":
        rows: list[dict[str, Any]] = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


_COLUMNS = {one.name: {"int": int, "str": str, "float": float}[str(one.type)] for one in fields(PlanePoint)}


def _mean(points: Sequence[PlanePoint]) -> PlanePoint:
    return replace(
        points[-1],
        input_bits=fmean(point.input_bits for point in points),
        label_bits=fmean(point.label_bits for point in points),
        width=fmean(point.width for point in points),
    )


def _kind(path: Path) -> str:
    if path.suffix not in _KINDS:
        raise InputError(f"the points of an information plane are written as {' or '.join(_KINDS)}, not '{path.name}'")
    return path.suffix


def _arrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise InputError(
            f"'{path}' needs the package pyarrow: pip install 'infoprune[parquet]', or name a .csv file"
        ) from error
