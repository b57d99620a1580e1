"""Runs scripts in processes that are forked from one that has everything imported: an import takes seconds."""

import functools
import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from infoprune.measure import figures

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@functools.cache
def _processes():
    source = ROOT / "src"
    modules = [path.relative_to(source).with_suffix("") for path in source.glob("infoprune/**/*.py")]
    context = multiprocessing.get_context("forkserver")
    # Rooms for packages that are not installed are left out by the server, which ignores an ImportError.
    context.set_forkserver_preload(
        ["sklearn.datasets", *(".".join(path.parts) for path in modules if path.name not in ("__init__", "__main__"))]
    )
    return context


def run(script, arguments=(), *, folder, environment=()):
    """Run a script in a folder, in a process of its own."""
    streams = [Path(f"{folder}.{name}") for name in ("out", "err")]
    process = _processes().Process(target=_become, args=(script, arguments, folder, dict(environment), streams))
    process.start()
    process.join()
    out, err = (stream.read_text(encoding="utf-8") for stream in streams)
    for stream in streams:
        stream.unlink()
    return Finished(process.exitcode, out, err)


def _become(script, arguments, folder, environment, streams):
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    os.chdir(folder)
    figures.TURN = 0.005  # as in tests/conftest.py
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(str(script), run_name="__main__")
