"""The notebooks of the docs run as they stand, cell by cell, and are stored without outputs."""

import json

import pytest

from examples.scripts import ROOT, run

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 40_000


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_there_are_two_notebooks():
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_cells_of_a_notebook_run(notebook, tmp_path):
    for package in ("matplotlib", "onnxruntime"):
        pytest.importorskip(package)
    code = [f"{''.join(cell['source'])}\n" for cell in cells(notebook) if cell["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(code), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run(script, folder=folder, environment={"MPLBACKEND": "agg"})
    assert done.code == 0, done.err
    assert done.out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_stored_without_outputs(notebook):
    assert notebook.stat().st_size < LARGEST
    for cell in cells(notebook):
        assert cell["cell_type"] == "markdown" or (not cell["outputs"] and cell["execution_count"] is None)
