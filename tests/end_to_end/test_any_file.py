"""Any file at all, of every kind that is read: it is used, or refused with InputError; nothing else happens."""

import contextlib
import copy
import json
import os
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import infoprune as package
from infoprune import report
from infoprune.data import open_source
from infoprune.data.images import FolderImages
from infoprune.data.preprocessing import Preprocessing
from infoprune.declarations.validation import read_object
from infoprune.errors import InputError
from infoprune.experiment.prune import read_keep
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.information_plane import read_points
from infoprune.plan import Plan
from infoprune.storage import checkpoint
from infoprune.zoo import read_weights

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SCHEDULE = {
    "layers": [{"layers": "features.*", "pace": "5%+1", "limit": 0.5}],
    "retraining": {"epochs": 1, "sizes": [8], "schedule": "steps"},
    "last": None,
    "criterion": "l1",
    "options": {"a": 1},
    "rounds": 2,
}


def changed(values, draw):
    """Return JSON values with one entry anywhere in them replaced, removed or added."""
    values = copy.deepcopy(values)
    chance = random.Random(draw(st.integers(0, 2**32)))
    here = values
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = chance.choice(keys)
        if isinstance(here[key], (dict, list)) and here[key] and chance.random() < 0.75:
            here = here[key]
            continue
        if chance.random() < 0.2:
            del here[key]
        else:
            here[key] = draw(json_values)
        break
    if isinstance(here, dict) and chance.random() < 0.1:
        here[draw(st.text(max_size=4))] = draw(json_values)
    return draw(json_values) if chance.random() < 0.05 else values


def used_or_refused(call):
    with contextlib.suppress(InputError):
        call()


@pytest.fixture(scope="module")
def written(base, tmp_path_factory):
    """A checkpoint, a plan and the folder of a run, as the commands write them."""
    folder = tmp_path_factory.mktemp("written")
    from infoprune.experiment.images import DataOptions
    from infoprune.experiment.network import NetworkOptions
    from infoprune.experiment.prune import prune
    from infoprune.options import PruneOptions

    choice = PruneOptions(criterion="cmi", ratio=0.5)
    prune(NetworkOptions(weights=base), DataOptions("digits", calibration=64), choice,
                 out=folder / "small.safetensors", run_out=folder / "run")  # fmt: skip
    export = {"latency_ms": {"network": {"pytorch": 1.0}, "base": {"pytorch": 2.0}},
              "onnx": {"file": "a", "bytes": 3, "max_abs_difference": 0.1, "largest_output": 2.0}}  # fmt: skip
    (folder / "run" / "export.json").write_text(json.dumps(export))
    return folder


@few
@given(st.data())
def test_headers(written, tmp_path, data):
    with checkpoint._opened(written / "small.safetensors") as file:
        header = json.loads(file.metadata()["infoprune"])
    path = tmp_path / "a.safetensors"
    text = json.dumps(changed(header, data.draw)).replace("\\ud8", "x")
    save_file(load_file(written / "small.safetensors"), path, metadata={"infoprune": text})
    used_or_refused(lambda: checkpoint.describe(path))
    used_or_refused(lambda: package.load(path))


@few
@given(st.data())
def test_plans_counts_and_schedules(written, tmp_path, data):
    plan = json.loads((written / "run" / "plan.json").read_text())
    used_or_refused(lambda: Plan.from_dict(changed(plan, data.draw)))
    used_or_refused(lambda: PruningSchedule.from_dict(changed(SCHEDULE, data.draw)))
    (tmp_path / "keep.json").write_text(json.dumps(changed(plan, data.draw)), errors="replace")
    used_or_refused(lambda: read_keep(tmp_path / "keep.json"))


@few
@given(st.data())
def test_runs(written, tmp_path, data):
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    for path in (written / "run").iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    name = data.draw(st.sampled_from(["record.json", "plan.json", "export.json"]))
    values = changed(json.loads((run / name).read_text()), data.draw)
    (run / name).write_text(json.dumps(values))
    used_or_refused(lambda: report.page(report.read_run(run)))


@few
@given(st.binary(max_size=200), st.integers(0, 400))
def test_bytes(written, tmp_path, junk, cut):
    whole = (written / "small.safetensors").read_bytes()
    torch.save({"a": torch.zeros(2)}, tmp_path / "whole.pt")
    (tmp_path / "batches.meta").write_bytes(junk)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(junk)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + junk)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + junk)
    files = {"junk": junk, "cut": whole[:cut], "mixed": whole[:cut] + junk + whole[cut + len(junk) :],
             "saved": (tmp_path / "whole.pt").read_bytes()[:cut] + junk}  # fmt: skip
    for name, content in files.items():
        for ending in ("safetensors", "pt", "json", "csv", "png", "tiff"):
            (tmp_path / f"{name}.{ending}").write_bytes(content)
        used_or_refused(lambda name=name: package.load(tmp_path / f"{name}.safetensors"))
        used_or_refused(lambda name=name: read_weights(tmp_path / f"{name}.safetensors"))
        used_or_refused(lambda name=name: read_weights(tmp_path / f"{name}.pt"))
        used_or_refused(lambda name=name: read_object(tmp_path / f"{name}.json"))
        used_or_refused(lambda name=name: read_points(tmp_path / f"{name}.csv"))
        for ending in ("png", "tiff"):
            images = FolderImages((tmp_path / f"{name}.{ending}",), torch.zeros(1, dtype=torch.long), ("a",))
            used_or_refused(lambda images=images: images.read([0], Preprocessing((0.0,), (1.0,))))
    for source in ("cifar10", "mnist", "folder"):
        used_or_refused(lambda source=source: open_source(source, tmp_path))


def test_pipes_and_long_names(written, tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", tmp_path / ("n" * 300), tmp_path / "a\0b", tmp_path):
        assert not checkpoint.is_checkpoint(path)
        for call in (package.load, checkpoint.describe, read_weights, read_keep, read_points, report.read_run):
            with pytest.raises(InputError):
                call(path)


@pytest.mark.parametrize("filters", [1e8, 10**8, 10**18])
def test_a_plan_of_any_number_of_filters_ends_at_once(written, tmp_path, filters):
    plan = json.loads((written / "run" / "plan.json").read_text())
    layer = next(iter(plan["layers"]))
    plan["layers"][layer] = {"layer": layer, "filters": filters, "kept": [0]}
    with pytest.raises(InputError, match="filters"):
        Plan.from_dict(plan)


@pytest.mark.parametrize(
    "header",
    ["[]", "null", "3", '"text"', "{}", "[" * 100_000, '{"format": [1]}', '{"format": 1, "plan": []}', "", "NaN"],
)
def test_headers_that_are_no_objects(written, tmp_path, header):
    path = tmp_path / "a.safetensors"
    save_file(load_file(written / "small.safetensors"), path, metadata={"infoprune": header})
    with pytest.raises(InputError):
        package.load(path)


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.uint8, torch.complex64])
def test_weights_of_another_kind_are_refused_and_not_truncated(written, tmp_path, kind):
    path, weights = tmp_path / "a.safetensors", load_file(written / "small.safetensors")
    with checkpoint._opened(written / "small.safetensors") as file:
        metadata = file.metadata()
    weights["features.0.weight"] = (weights["features.0.weight"] * 100).to(kind)
    save_file(weights, path, metadata=metadata)
    with pytest.raises(InputError, match=r"'features.0.weight' holds .*, the network needs floating point numbers"):
        package.load(path)
