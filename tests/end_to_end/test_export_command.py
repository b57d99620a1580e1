"""``infoprune export``, as a user calls it."""

import json

import pytest

from infoprune.measure.advice import latency_advice

pytest.importorskip("onnxruntime")


@pytest.fixture
def small(infoprune, base, folder):
    assert infoprune("prune", "--no-repair", "--weights", base, "--data", "digits", "--criterion", "l1", "--macs", 0.5,
                     "--out", "small.safetensors", "--quiet").code == 0  # fmt: skip
    return folder / "small.safetensors"


def test_export_writes_files_record_and_tables(infoprune, small, folder):
    done = infoprune("export", small, "--onnx", "small.onnx", "--program", "small.pt2", "--json", "export.json",
                     "--state", "plain.safetensors")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "export.json").read_text())
    assert record["onnx"]["max_abs_difference"] <= 1e-4 * max(1, record["onnx"]["largest_output"])
    assert (folder / "small.onnx").stat().st_size == record["onnx"]["bytes"]
    assert (folder / "small.pt2").stat().st_size == record["program"]["bytes"]
    assert (folder / "plain.safetensors").stat().st_size == record["state"]["bytes"]
    assert "features.0" in json.loads((folder / "plain.json").read_text())["attributes"]
    for row in ("base", "network"):
        for runtime in ("pytorch", "onnxruntime"):
            assert f"{record['latency_ms'][row][runtime]:.2f}" in done.out
    assert f"{record['onnx']['bytes']:,}" in done.out
    assert all(sentence in " ".join(done.out.split()) for sentence in latency_advice(record["latency_ms"]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "say what to export to: --onnx FILE"),
        (("--onnx", "small.safetensors"), "is named twice: name two different files"),
        (("--onnx", "small.onnx", "--tolerance", "0"), "was not written: its outputs differ"),
    ],
)
def test_a_mistake_is_one_sentence(infoprune, small, folder, arguments, sentence):
    done = infoprune("export", small, *arguments)
    assert done.code == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1 or "exporting" in done.err
    assert sorted(path.name for path in folder.iterdir()) == ["small.safetensors"]


def test_export_of_what_is_no_checkpoint(infoprune, folder):
    done = infoprune("export", "missing.safetensors", "--onnx", "a.onnx")
    assert (done.code, done.err) == (2, "Error: the file 'missing.safetensors' does not exist\n")
