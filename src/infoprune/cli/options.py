"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infoprune.data import source_names

# Typer reads Optional[...] at run time, also on Python 3.10.
Model = Annotated[
    str | None,
    typer.Option("--model", help="A zoo name, timm:NAME, torchvision:NAME or package.module:function."),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights of the model, or an infoprune checkpoint.")]
ModelArguments = Annotated[str, typer.Option("--model-args", help="JSON object given to the model's function.")]
Mean = Annotated[str | None, typer.Option("--mean", help="Per channel, pixels in [0, 1]: what the weights want.")]
Std = Annotated[str | None, typer.Option("--std", help="Per channel, pixels in [0, 1]: what the weights want.")]
InputShape = Annotated[str | None, typer.Option("--input-shape", help="C,H,W of one image.")]
Data = Annotated[str, typer.Option("--data", help=f"The data set: {', '.join(source_names())}.")]
DataDirectory = Annotated[Path | None, typer.Option("--data-dir", help="Where its files lie.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read image files.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
LabelSmoothing = Annotated[float, typer.Option(help="Of the cross entropy, 0 to below 1.")]
Clip = Annotated[float, typer.Option(help="Largest norm of the gradient; 0: as it is.")]
Rotation = Annotated[float, typer.Option(help="Most degrees by which training images are turned, either way.")]
Scaling = Annotated[float, typer.Option(help="Most share by which they are made larger or smaller.")]
Cutout = Annotated[float, typer.Option(help="Side of a blanked square in each image, as a share of the image's.")]
Sizes = Annotated[str | None, typer.Option(help="Image sides, part by part of the epochs: 16,24,32.")]
MapsTap = Annotated[str | None, typer.Option("--tap", help="Where maps are read: convolution, norm or activation.")]
Seed = Annotated[int, typer.Option("--seed")]
Out = Annotated[Path, typer.Option("--out", help="The checkpoint to write.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Also write the record as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
