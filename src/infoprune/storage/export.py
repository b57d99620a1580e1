"""A network for other runtimes: ONNX, and PyTorch's own exported program; each checked against the network first."""

from __future__ import annotations

import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.files import check_writable, written_whole
from infoprune.measure.environment import machine, versions
from infoprune.network import cost
from infoprune.network.equivalence import copied, one_line
from infoprune.network.origin import Origin, origin_of
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.zoo.factory import build_from_file

# What every runtime of the last years reads, and what PyTorch's exporter writes without conversion.
OPSET = 17
# Of the largest output: single precision in another order of summation differs by a hundred times less.
TOLERANCE = 1e-4
_ROUNDS = 3


@dataclass(frozen=True)
class Agreement:
    """How near an exported network comes to the one it was made of.

    Args:
        max_abs_difference: The largest absolute difference between outputs.
        largest_output: The largest absolute output of the network.
        images: Number of random images that were compared.

    Example:
        >>> Agreement(max_abs_difference=1e-6, largest_output=8.0, images=5).check("ONNX file", tolerance=1e-4)
        >>> Agreement(max_abs_difference=0.1, largest_output=8.0, images=5).check("ONNX file", tolerance=1e-4)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the ONNX file was not written: its outputs differ by 0.1 from the network's
    """

    max_abs_difference: float
    largest_output: float
    images: int

    def check(self, what: str, tolerance: float) -> None:
        """Refuse outputs that differ by more than ``tolerance`` times the largest one, or 1 where that is smaller.

        Raises:
            InputError: They do.
        """
        if not self.max_abs_difference <= tolerance * max(1.0, self.largest_output):
            raise InputError(
                f"the {what} was not written: its outputs differ by {self.max_abs_difference:.3g} from the network's, "
                f"whose largest is {self.largest_output:.3g}; the tolerance is {tolerance:g} of that"
            )


def to_onnx(model: nn.Module, example: Tensor) -> bytes:
    """Return a network as an ONNX model, weights inside, for batches of any size.

    Args:
        model: Gives one tensor for ``(n, C, H, W)`` images; exported in eval mode, and left as it is.
        example: ``(n, C, H, W)`` images to trace with.

    Raises:
        InputError: The network does something that ONNX cannot say.

    Example:
        >>> exported = to_onnx(nn.Conv2d(1, 2, 3), torch.rand(2, 1, 8, 8))
        >>> OnnxRuntime(exported)(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 2, 6, 6])
    """
    _package("onnx")
    written = io.BytesIO()
    try:
        with _quiet():
            # Tracing: the same on every PyTorch since 2.4, and ten times as fast as the exporter built on Dynamo.
            torch.onnx.export(
                copied(model).cpu().eval(),
                (example.cpu(),),
                written,  # type: ignore[arg-type]  # any file will do without Dynamo
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            )
    except Exception as error:
        raise InputError(f"the network cannot be exported to ONNX: {one_line(error)}") from error
    return written.getvalue()


def to_program(model: nn.Module, example: Tensor) -> bytes:
    """Return a network as a file of ``torch.export``, for batches of any size.

    Args:
        model: As for :func:`to_onnx`.
        example: ``(n, C, H, W)`` images to trace with, at least two.

    Raises:
        InputError: The network does something that cannot be traced.

    Example:
        >>> exported = to_program(nn.Conv2d(1, 2, 3), torch.rand(2, 1, 8, 8))
        >>> torch.export.load(io.BytesIO(exported)).module()(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 2, 6, 6])
    """
    written = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch")},)
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
        """Return the outputs for ``(n, C, H, W)`` images."""
        return torch.from_numpy(self._session.run(None, {self._input: images.cpu().numpy()})[0])

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
    """Compare an ONNX model, run by ONNX Runtime, with the network on ``(n, C, H, W)`` images.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Conv2d(1, 2, 3)
        >>> onnx_agreement(to_onnx(net, torch.rand(2, 1, 8, 8)), net, torch.rand(5, 1, 8, 8)).max_abs_difference < 1e-5
        True
    """
    return _agreement(OnnxRuntime(exported)(images), model, images)


def program_agreement(exported: bytes, model: nn.Module, images: Tensor) -> Agreement:
    """Compare an exported program, loaded again, with the network on ``(n, C, H, W)`` images.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Conv2d(1, 2, 3)
        >>> found = program_agreement(to_program(net, torch.rand(2, 1, 8, 8)), net, torch.rand(5, 1, 8, 8))
        >>> found.max_abs_difference < 1e-5
        True
    """
    with _quiet(), torch.inference_mode():
        found = torch.export.load(io.BytesIO(exported)).module()(images.cpu())
    return _agreement(found, model, images)


def export(
    path: Path,
    *,
    build: checkpoint.Build | None = None,
    onnx: Path | None = None,
    program: Path | None = None,
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
    if not wanted:
        raise InputError("say what to export to: --onnx FILE, --program FILE, or both")
    for _, out in wanted:
        check_writable(out, force=force)
    model = checkpoint.load(path, build)
    origin = origin_of(model)
    assert isinstance(origin, Origin)  # load notes it
    example = _images(2, origin)
    record: dict[str, Any] = {"checkpoint": str(path), "architecture": origin.architecture, "tolerance": tolerance}
    files: dict[str, bytes] = {}
    for number, (kind, out) in enumerate(wanted):
        progress("exporting", number, len(wanted) + 1)
        convert, compare, what = _KINDS[kind]
        files[kind] = convert(model, example)
        # Another number of images than was traced: a batch size baked in would show here.
        agreement = compare(files[kind], model, _images(5, origin))
        agreement.check(what, tolerance)
        record[kind] = {"file": str(out), "bytes": len(files[kind]), **asdict(agreement)}
    progress("exporting", len(wanted), len(wanted) + 1)
    record["latency_ms"] = _latencies(model, origin, build, files.get("onnx"), example[:1])
    record["settings"] = {"versions": {**versions(), **_onnx_versions(onnx)}, "machine": machine(torch.device("cpu"))}
    for kind, out in wanted:
        with written_whole(out, force=force) as temporary:
            temporary.write_bytes(files[kind])
    return record


_KINDS = {
    "onnx": (to_onnx, onnx_agreement, "ONNX file"),
    "program": (to_program, program_agreement, "exported program"),
}


def _latencies(
    model: nn.Module, origin: Origin, build: checkpoint.Build | None, exported: bytes | None, one: Tensor
) -> dict[str, dict[str, float]]:
    networks = {"network": (model, exported)}
    if origin.plan is not None:
        # Weights do not change how long a forward pass takes, so those of the base network need not be at hand.
        base = (build_from_file(origin.architecture, origin.arguments) if build is None else build()).eval()
        networks = {"base": (base, None if exported is None else to_onnx(base, one)), **networks}
    measures: dict[tuple[str, str], Callable[[], float]] = {}
    for name, (network, onnx) in networks.items():
        measures[name, "pytorch"] = partial(_milliseconds, network, one)
        if onnx is not None:
            measures[name, "onnxruntime"] = partial(OnnxRuntime(onnx).latency, one)
    # Alternating, so that other load on the machine affects all runtimes.
    turns = [{key: measure() for key, measure in measures.items()} for _ in range(_ROUNDS)]
    found: dict[str, dict[str, float]] = {name: {} for name in networks}
    for name, runtime in measures:
        found[name][runtime] = statistics.median(turn[name, runtime] for turn in turns)
    return found


def _milliseconds(model: nn.Module, one: Tensor) -> float:
    return cost.Latency.of(cost.latency(model, one)).milliseconds


def _agreement(found: Tensor, model: nn.Module, images: Tensor) -> Agreement:
    with torch.inference_mode():
        right = copied(model).cpu().eval()(images.cpu())
    if found.shape != right.shape:
        raise InputError(f"the export returns outputs of shape {tuple(found.shape)}, the network {tuple(right.shape)}")
    return Agreement(float((found - right).abs().max()), float(right.abs().max()), len(images))


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
