"""Runs, reports and comparisons, as a user asks for them."""

import json

import pytest

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

CUT = ("prune", "--no-repair", "--weights")


def prune(infoprune, base, criterion, *more):
    done = infoprune(*CUT, base, "--data", "digits", "--criterion", criterion, "--macs", 0.5,
                     "--out", f"{criterion}.safetensors", "--quiet", *more)  # fmt: skip
    assert done.code == 0, done.err


def test_a_run_is_reported_from_its_files_alone(infoprune, base, folder):
    prune(infoprune, base, "l1", "--run", "l1", "--report", "at-once.html")
    (folder / "l1.safetensors").unlink()
    done = infoprune("report", "l1", "-o", "report.html")
    assert (done.code, done.out) == (0, "page: report.html\n")
    at_once, later = ((folder / name).read_text() for name in ("at-once.html", "report.html"))
    assert at_once == later
    record = json.loads((folder / "l1" / "record.json").read_text())
    assert f"{record['pruned']['accuracy']:.2f} %" in later


def test_runs_are_compared(infoprune, base, folder):
    prune(infoprune, base, "l1", "--run", "l1")
    prune(infoprune, base, "random", "--run", "random")
    done = infoprune("compare", "l1", "random", "--out", "compare.html", "--figures", "figures")
    assert (done.code, done.out) == (0, "page: compare.html\n6 figures: figures\n")
    assert (folder / "figures" / "accuracy_against_macs.svg").exists()
    done = infoprune("report", "l1", "--figures", "figures", "--quiet")
    assert (done.code, done.out) == (0, "")
    assert (folder / "figures" / "layer.features.10.png").exists()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("report", "missing", "--out", "a.html"), "'missing' holds no run: name a folder written by"),
        (("compare", "missing", "--out", "a.html"), "'missing' holds no run"),
        (("report", "missing"), "say what to write: --out report.html, --figures FOLDER, or both"),
    ],
)
def test_a_mistake_is_one_sentence(infoprune, folder, command, sentence):
    done = infoprune(*command)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert not list(folder.iterdir())


def test_a_run_is_not_overwritten_and_nothing_is_computed_first(infoprune, base, folder):
    prune(infoprune, base, "l1", "--run", "l1")
    done = infoprune("prune", "--no-repair", "--weights", base, "--data", "digits", "--criterion", "l1", "--macs", 0.5,
                     "--out", "other.safetensors", "--run", "l1")  # fmt: skip
    assert done.code == 2
    assert "exists already: use --force" in done.err
    assert not (folder / "other.safetensors").exists()
    prune(infoprune, base, "l1", "--run", "l1", "--force")
