"""The networks of ``coverage.py``: every torchvision CNN, and the smallest network of each timm module."""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Networks of tokens alone; those that mix convolutions and attention are in.
TRANSFORMERS = ("vit_", "swin", "mvit_")
QUANTISED = "quantized_"
DETECTORS = ("rcnn", "retinanet", "fcos", "ssd")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
# Convolutions that read feature maps: a patch embedding alone does not make a network convolutional.
LEAST_CONVOLUTIONS = 2


@dataclass(frozen=True)
class Network:
    """One network of the benchmark.

    Args:
        suite: ``torchvision`` or ``timm``.
        name: As the suite names it.
        family: Its module of the suite.
        parameters: Number of parameters; small networks are run first.
    """

    suite: str
    name: str
    family: str
    parameters: int


class Detector(nn.Module):
    """A detector that takes one batch of images of one size."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        """Return the boxes of each image."""
        return self.net(list(images))


class Pair(nn.Module):
    """An optical flow network that takes both images as one tensor of six channels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        """Return the flow after each update."""
        return self.net(images[:, :3], images[:, 3:], num_flow_updates=2)


def listed(cache: Path) -> list[Network]:
    """Return all networks, small ones first; the list is made once and kept in a file."""
    if cache.exists():
        return [Network(**one) for one in json.loads(cache.read_text(encoding="utf-8"))]
    found = sorted([*_torchvision(), *_timm()], key=lambda one: one.parameters)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    return found


def built(suite: str, name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights in eval mode, and two inputs as small as it reads."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, shapes = _built_torchvision(name) if suite == "torchvision" else _built_timm(name)
    model.eval()
    error: Exception | None = None
    for shape in shapes:
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                model(example)
            return model, example
        except Exception as failed:
            error = failed
    raise RuntimeError(f"{name} runs on none of {shapes}: {error}")


def _torchvision() -> Iterator[Network]:
    from torchvision import models

    for name in models.list_models():
        if not name.startswith((*TRANSFORMERS, QUANTISED)):
            model = _on_meta(lambda name=name: _bare(name)) or _bare(name)
            family = models.get_model_builder(name).__module__.rpartition(".")[2]
            yield Network("torchvision", name, family, _count(model))


def _timm() -> Iterator[Network]:
    import timm

    for module in timm.list_modules():
        found: list[tuple[int, str]] = []
        for name in timm.list_models(module=module):
            if not name.startswith("test_"):
                model = _on_meta(lambda name=name: timm.create_model(name))
                if model is not None and _convolutions(model) >= LEAST_CONVOLUTIONS:
                    found.append((_count(model), name))
        if found:
            count, name = min(found)
            yield Network("timm", name, module, count)


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    with warnings.catch_warnings(), torch.device("meta"), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        return build()
    return None


def _convolutions(model: nn.Module) -> int:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(isinstance(one, kinds) and one.in_channels > 3 for one in model.modules())


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _bare(name: str) -> nn.Module:
    from torchvision import models

    builder = models.get_model_builder(name)
    words: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        words["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        words["init_weights"] = False
    if any(kind in name for kind in DETECTORS):
        # Random scores are low: without a threshold there are boxes to compare.
        words["box_score_thresh" if "rcnn" in name else "score_thresh"] = 0.0
        if not name.startswith("ssd"):
            words |= {"min_size": 96, "max_size": 96}
    model: nn.Module = builder(**words)
    return model


def _built_torchvision(name: str) -> tuple[nn.Module, list[tuple[int, ...]]]:
    model = _bare(name)
    if any(kind in name for kind in DETECTORS):
        return Detector(model), [(2, 3, 96, 96)]
    if name.startswith("raft"):
        return Pair(model), [(2, 6, 128, 128)]
    if name in VIDEO:
        return model, [(2, 3, 8, 64, 64), (2, 3, 16, 224, 224)]
    return model, [(2, 3, size, size) for size in (64, 96, 224)]


def _built_timm(name: str) -> tuple[nn.Module, list[tuple[int, ...]]]:
    import timm

    model = timm.create_model(name)
    channels, *sides = model.default_cfg["input_size"]
    small = [(2, channels, size, size) for size in (64, 96, 128, 160, 192) if size < sides[0]]
    return model, [*small, (2, channels, *sides)]
