"""A network for other runtimes: ONNX, PyTorch's own exported program, and a state dict with the widths of its layers.

Exported files read batches of any size. They read images of any height and width too, where the network does; the files
are compared with the network on images of both sizes, output by output, before they are written.
"""

from __future__ import annotations

import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.files import check_apart, check_writable, written_whole
from infoprune.measure.environment import machine, versions
from infoprune.network import cost
from infoprune.network.equivalence import copied, one_line
from infoprune.network.origin import Origin, origin_of
from infoprune.network.tensors import named_tensors_in, tensors_in
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.storage.plain import check_plain, save_plain
from infoprune.zoo.factory import build_from_file

# What every runtime of the last years reads, and what PyTorch's exporter writes without conversion.
OPSET = 17
# Of the largest output: single precision in another order of summation differs by a hundred times less.
TOLERANCE = 1e-4
_ROUNDS = 3
_SINGLE = "logits"


@dataclass(frozen=True)
class Agreement:
    """How near an exported network comes to the one it was made of.

    Args:
        max_abs_difference: The largest absolute difference between outputs.
        largest_output: The largest absolute output of the network.
        images: Number of random images that were compared.
        outputs: By output, its largest absolute difference and its largest absolute value.

    Example:
        >>> Agreement(1e-6, 3.0, 2).check("ONNX file", 1e-4)
    """

    max_abs_difference: float
    largest_output: float
    images: int
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def check(self, what: str, tolerance: float) -> None:
        """Refuse outputs that differ by more than ``tolerance`` times the largest one, or 1 where that is smaller.

        Every output is compared with its own largest value.

        Raises:
            InputError: They do.
        """
        every = self.outputs or {"": (self.max_abs_difference, self.largest_output)}
        for name, (difference, largest) in every.items():
            if not difference <= tolerance * max(1.0, largest):
                one = f" '{name}'" if len(every) > 1 else ""
                raise InputError(
                    f"the {what} was not written: its outputs{one} differ by {difference:.3g} from the network's, "
                    f"whose largest is {largest:.3g}; the tolerance is {tolerance:g} of that"
                )

    def and_then(self, other: Agreement) -> Agreement:
        """Return the agreement over the images of both.

        Example:
            >>> one = Agreement(1.0, 2.0, 3, {"mask": (1.0, 2.0)})
            >>> one.and_then(Agreement(0.5, 4.0, 1, {"mask": (0.5, 4.0)})).outputs
            {'mask': (1.0, 4.0)}
        """
        outputs = {
            name: (_greatest((difference, other.outputs[name][0])), max(largest, other.outputs[name][1]))
            for name, (difference, largest) in self.outputs.items()
        }
        return Agreement(
            _greatest((self.max_abs_difference, other.max_abs_difference)),
            max(self.largest_output, other.largest_output),
            self.images + other.images,
            outputs,
        )


class _Named(nn.Module):
    """Returns the tensors of a network's output as a tuple, whatever holds them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self.network(images)))


def reads_other_sizes(model: nn.Module, example: Tensor) -> bool:
    """Return whether a network reads images of another height and width than the example's.

    Args:
        model: The network; left as it is.
        example: ``(n, C, H, W)`` images; a batch of another rank has no height and width.

    Example:
        >>> reads_other_sizes(nn.Conv2d(3, 2, 3), torch.zeros(2, 3, 8, 8))
        True
        >>> reads_other_sizes(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.zeros(2, 3, 8, 8))
        False
    """
    if example.ndim != 4:
        return False
    try:
        with torch.inference_mode():
            copied(model).cpu().eval()(larger(example))
    except Exception:
        return False
    return True


def larger(example: Tensor) -> Tensor:
    """Return images of another height and another width.

    Example:
        >>> tuple(larger(torch.zeros(2, 3, 8, 8)).shape)
        (2, 3, 40, 72)
    """
    # Networks of several scales want multiples of 32.
    n, channels, height, width = example.shape
    generator = torch.Generator().manual_seed(height)
    return torch.randn(n, channels, height + 32, width + 64, generator=generator, dtype=example.dtype)


def to_onnx(model: nn.Module, example: Tensor, *, free_size: bool = False) -> bytes:
    """Return a network as an ONNX model, weights inside, for batches of any size.

    The input is ``images``. Outputs have the names that lead to them: the keys of a dict, the attributes of a
    dataclass, ``logits_0`` and so on for a tuple, ``logits`` for a single tensor. Axes of any size have names.

    Args:
        model: The network; exported in eval mode, and left as it is.
        example: ``(n, C, H, W)`` images to trace with.
        free_size: Whether images of any height and width can be read, as ``reads_other_sizes`` finds.

    Raises:
        InputError: The network does something that ONNX cannot express.

    Example:
        >>> exported = to_onnx(nn.Conv2d(3, 2, 3), torch.zeros(2, 3, 8, 8), free_size=True)
        >>> tuple(OnnxRuntime(exported)(torch.zeros(1, 3, 12, 9)).shape)
        (1, 2, 10, 7)
    """
    _package("onnx")
    network = copied(model).cpu().eval()
    example = example.cpu()
    written = io.BytesIO()
    try:
        names, axes = _outputs_and_axes(network, example, free_size)
        with _quiet(), _operators_known():
            # Tracing: the same on every PyTorch since 2.4, and ten times as fast as the exporter built on Dynamo.
            torch.onnx.export(
                _Named(network),
                (example,),
                written,  # type: ignore[arg-type]  # any file will do without Dynamo
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_axes=axes,
            )
    except Exception as error:
        raise InputError(f"the network cannot be exported to ONNX: {one_line(error)}") from error
    return written.getvalue()


def _outputs_and_axes(network: nn.Module, example: Tensor, free_size: bool) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the outputs, and the axes of input and outputs whose length is free."""
    with torch.inference_mode():
        here = _outputs(network, example)
        others = [_outputs(network, torch.cat([example, example[:1]]))]
        others += [_outputs(network, larger(example))] if free_size else []
    axes: dict[str, Any] = {"images": {0: "batch", **({2: "height", 3: "width"} if free_size else {})}}
    for name, tensor in here.items():
        free = [axis for axis in range(tensor.ndim) if any(o[name].shape[axis] != tensor.shape[axis] for o in others)]
        axes[name] = {axis: "batch" if axis == 0 else f"{name}_axis_{axis}" for axis in free}
    return list(here), axes


def to_program(model: nn.Module, example: Tensor, *, free_size: bool = False) -> bytes:
    """Return a network as a file of ``torch.export``, for batches of any size.

    The file holds code and weights; ``torch.export.load`` reads it without infoprune.

    Args:
        model: As for :func:`to_onnx`.
        example: ``(n, C, H, W)`` images to trace with, at least two.
        free_size: As for :func:`to_onnx`.

    Raises:
        InputError: The network does something that cannot be traced.

    Example:
        >>> exported = to_program(nn.Conv2d(3, 2, 3), torch.zeros(2, 3, 8, 8), free_size=True)
        >>> program = torch.export.load(io.BytesIO(exported)).module()
        >>> tuple(program(torch.zeros(1, 3, 12, 9)).shape)
        (1, 2, 10, 7)
    """
    written = io.BytesIO()
    # A named size may have no condition at all; strides leave some, such as a least height.
    free: Any = getattr(torch.export.Dim, "AUTO", None)
    if free_size and free is None:
        raise InputError("a program for images of any size needs PyTorch 2.6 or later")
    shapes = ({0: torch.export.Dim("batch"), **({2: free, 3: free} if free_size else {})},)
    try:
        with _quiet():
            program = torch.export.export(copied(model).cpu().eval(), (example.cpu(),), dynamic_shapes=shapes)
            torch.export.save(program, written)
    except Exception as error:
        raise InputError(f"the network cannot be exported as a program: {one_line(error)}") from error
    return written.getvalue()


class OnnxRuntime:
    """An ONNX model that runs, on one thread of the CPU.

    Args:
        exported: As from :func:`to_onnx`.

    Example:
        >>> network = OnnxRuntime(to_onnx(nn.Linear(4, 2), torch.rand(2, 4)))
        >>> network(torch.rand(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, exported: bytes) -> None:
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        """Return the first output for ``(n, C, H, W)`` images."""
        return next(iter(self.outputs(images).values()))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return all outputs for ``(n, C, H, W)`` images, by name."""
        names = [one.name for one in self._session.get_outputs()]
        found = self._session.run(names, {self._input: images.cpu().numpy()})
        return {name: torch.from_numpy(one) for name, one in zip(names, found, strict=True)}

    def latency(self, images: Tensor, *, repeats: int = 30, warmup: int = 5) -> float:
        """Return the median milliseconds of one pass of these images, as ``network.cost.latency`` measures PyTorch."""
        feed = {self._input: images.cpu().numpy()}
        times = []
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            self._session.run(None, feed)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[warmup:])


def onnx_agreement(exported: bytes, model: nn.Module, images: Tensor) -> Agreement:
    """Compare every output of an ONNX model, run by ONNX Runtime, with the network's on ``(n, C, H, W)`` images.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Conv2d(1, 2, 3)
        >>> onnx_agreement(to_onnx(net, torch.rand(2, 1, 8, 8)), net, torch.rand(5, 1, 8, 8)).max_abs_difference < 1e-5
        True
    """
    return _agreement(OnnxRuntime(exported).outputs(images), model, images)


def program_agreement(exported: bytes, model: nn.Module, images: Tensor) -> Agreement:
    """Compare every output of an exported program, loaded again, with the network's on ``(n, C, H, W)`` images.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Conv2d(1, 2, 3)
        >>> found = program_agreement(to_program(net, torch.rand(2, 1, 8, 8)), net, torch.rand(5, 1, 8, 8))
        >>> found.max_abs_difference < 1e-5
        True
    """
    with _quiet(), torch.inference_mode():
        found = torch.export.load(io.BytesIO(exported)).module()(images.cpu())
    return _agreement(named_tensors_in(found, _SINGLE), model, images)


def export(
    path: Path,
    *,
    build: checkpoint.Build | None = None,
    onnx: Path | None = None,
    program: Path | None = None,
    state: Path | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Export the network of a checkpoint, check the files against it, and measure PyTorch and ONNX Runtime.

    Args:
        path: An infoprune checkpoint.
        build: Returns the whole network, where no registry lists it; as for ``checkpoint.load``.
        onnx: The ONNX file to write.
        program: The file of ``torch.export`` to write.
        state: The state dict to write, with the widths of the layers beside it; as for ``save_plain``.
        tolerance: Of the largest output, how much the outputs may differ.
        force: Replace files that exist.
        progress: Called after every file, and when times are measured.

    Returns:
        The record: by file its bytes and its agreement; milliseconds of one image on one thread of the CPU by network
        (``base`` as it was before its plan, ``network`` as it is) and runtime; what it was measured with.

    Raises:
        InputError: No file is asked for, the checkpoint cannot be read, the network cannot be exported, the outputs
            differ by more than the tolerance, or a file cannot be written; no file is written then.

    Example:
        >>> import tempfile
        >>> from infoprune import zoo
        >>> folder = Path(tempfile.mkdtemp())
        >>> checkpoint.save(zoo.build("digits"), folder / "net.safetensors", origin=Origin("digits", (1, 8, 8)))
        >>> record = export(folder / "net.safetensors", onnx=folder / "net.onnx")
        >>> record["onnx"]["max_abs_difference"] < 1e-4
        True
    """
    wanted = [(kind, out) for kind, out in (("onnx", onnx), ("program", program)) if out is not None]
    if not wanted and state is None:
        raise InputError("say what to export to: --onnx FILE, --program FILE, --state FILE, or several of them")
    check_apart([Path(path), *(out for _, out in wanted), *([] if state is None else [state])])
    for _, out in wanted:
        check_writable(out, force=force)
    if state is not None:
        check_plain(state, force=force)
    model = checkpoint.load(path, build)
    origin = origin_of(model)
    assert isinstance(origin, Origin)  # load notes it
    example = _images(2, origin)
    record: dict[str, Any] = {"checkpoint": str(path), "architecture": origin.architecture, "tolerance": tolerance}
    files: dict[str, bytes] = {}
    for number, (kind, out) in enumerate(wanted):
        progress("exporting", number, len(wanted) + 1)
        convert, compare, what = _KINDS[kind]
        files[kind], agreement, sizes = _converted(convert, compare, model, example, _images(5, origin), tolerance)
        agreement.check(what, tolerance)
        record[kind] = {"file": str(out), "bytes": len(files[kind]), "sizes": sizes, **asdict(agreement)}
    progress("exporting", len(wanted), len(wanted) + 1)
    base = None if origin.plan is None else _base(origin, build)
    record["latency_ms"] = _latencies(model, base, files.get("onnx"), example[:1])
    record["settings"] = {"versions": {**versions(), **_onnx_versions(onnx)}, "machine": machine(torch.device("cpu"))}
    for kind, out in wanted:
        with written_whole(out, force=force) as temporary:
            temporary.write_bytes(files[kind])
    if state is not None:
        save_plain(model if base is None else base, model, state, force=force)
        size = state.stat().st_size
        record["state"] = {"file": str(state), "bytes": size, "widths": str(state.with_suffix(".json"))}
    return record


def _converted(
    convert: Callable[..., bytes],
    compare: Callable[[bytes, nn.Module, Tensor], Agreement],
    model: nn.Module,
    example: Tensor,
    images: Tensor,
    tolerance: float,
) -> tuple[bytes, Agreement, str]:
    """Return the file, its agreement, and whether it reads images of any size or of one."""
    # Another number of images than was traced: a batch size that became a constant would show here.
    if reads_other_sizes(model, example):
        with suppress(Exception):  # the network's code turned a size into a constant
            file = convert(model, example, free_size=True)
            agreement = compare(file, model, images).and_then(compare(file, model, larger(images)))
            agreement.check("file", tolerance)
            return file, agreement, "any"
    file = convert(model, example)
    return file, compare(file, model, images), "one"


_KINDS: dict[str, tuple[Callable[..., bytes], Callable[[bytes, nn.Module, Tensor], Agreement], str]] = {
    "onnx": (to_onnx, onnx_agreement, "ONNX file"),
    "program": (to_program, program_agreement, "exported program"),
}


def _base(origin: Origin, build: checkpoint.Build | None) -> nn.Module:
    """Return the network before its plan, with random weights."""
    return (build_from_file(origin.architecture, origin.arguments) if build is None else build()).eval()


def _latencies(
    model: nn.Module, base: nn.Module | None, exported: bytes | None, one: Tensor
) -> dict[str, dict[str, float]]:
    networks = {"network": (model, exported)}
    if base is not None:
        # Weights do not change how long a forward pass takes, so those of the base network need not be at hand.
        networks = {"base": (base, None if exported is None else to_onnx(base, one)), **networks}
    measures: dict[tuple[str, str], Callable[[], float]] = {}
    for name, (network, onnx) in networks.items():
        measures[name, "pytorch"] = partial(_milliseconds, network, one)
        if onnx is not None:
            measures[name, "onnxruntime"] = partial(OnnxRuntime(onnx).latency, one)
    # Alternating, so that other load on the machine affects all runtimes.
    rounds = [{key: measure() for key, measure in measures.items()} for _ in range(_ROUNDS)]
    found: dict[str, dict[str, float]] = {name: {} for name in networks}
    for name, runtime in measures:
        found[name][runtime] = statistics.median(one[name, runtime] for one in rounds)
    return found


def _milliseconds(model: nn.Module, one: Tensor) -> float:
    return cost.Latency.of(cost.latency(model, one)).milliseconds


def _agreement(found: Mapping[str, Tensor], model: nn.Module, images: Tensor) -> Agreement:
    with torch.inference_mode():
        right = _outputs(copied(model).cpu().eval(), images.cpu())
    shapes = [[tuple(one.shape) for one in some.values()] for some in (found, right)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the export returns outputs of shape {_listed(shapes[0])}, the network {_listed(shapes[1])}")
    outputs = {
        name: (float((one - other).abs().max()), float(other.abs().max())) if other.numel() else (0.0, 0.0)
        for (name, other), one in zip(right.items(), found.values(), strict=True)
    }
    differences, largest = zip(*outputs.values(), strict=True)
    return Agreement(_greatest(differences), max(largest), len(images), outputs)


def _greatest(values: Iterable[float]) -> float:
    # max() forgets values that are no number.
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return named_tensors_in(model(images), _SINGLE)


def _images(count: int, origin: Origin) -> Tensor:
    return torch.randn(count, *origin.input_shape, generator=torch.Generator().manual_seed(count))


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"export to ONNX needs the package '{name}': pip install 'infoprune[onnx]'") from error


def _onnx_versions(onnx: Path | None) -> dict[str, str]:
    return {} if onnx is None else {name: _package(name).__version__ for name in ("onnx", "onnxruntime")}


@contextmanager
def _operators_known() -> Iterator[None]:
    """Name the set of operators where onnx2torch's modules look for it, a place that newer PyTorch has moved."""
    place, name = torch.onnx.symbolic_helper, "_export_onnx_opset_version"
    if hasattr(place, name):
        yield
        return
    setattr(place, name, OPSET)
    try:
        yield
    finally:
        delattr(place, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes on themselves from the user: what matters here is checked afterwards."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
