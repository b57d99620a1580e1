"""The page and the figures hold what the run holds, and nothing that must be fetched."""

import json
import re
from dataclasses import replace

import pytest

from infoprune.errors import InputError
from infoprune.plan import LayerDecision, Plan
from infoprune.report import Run, comparison_page, page
from infoprune.report.figures import comparison_figures, run_figures

pytest.importorskip("plotly")


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL).group(1))


def test_the_page_holds_plan_and_scores(runs):
    html = page(runs["hrel"])
    for layer in data_of(html)["layers"]:
        decision = runs["hrel"].plan.decisions[layer["name"]]
        assert layer["kept"] == list(decision.kept)
        assert layer["scores"] == pytest.approx(decision.scores, rel=1e-5)
        assert sorted(layer["order"]) == list(range(decision.filters))
    accuracy = runs["hrel"].record["pruned"]["accuracy"]
    assert f"{accuracy:.2f} %" in html


def test_nothing_is_fetched(runs):
    html = page(runs["cmi"], [runs["l1"]])
    outside = html.replace(re.search(r"<script>/\*.*?</script>", html, re.DOTALL).group(0), "")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)|url\((?!\$\{src\})|@import|fetch\(""", outside)


def test_pages_are_below_ten_megabytes(wide_run):
    assert len(page(wide_run).encode()) < 10_000_000


@pytest.mark.parametrize(("points", "is_red"), [(5.5, True), (4.5, False), (-6.0, False)])
def test_a_large_fall_of_the_accuracy_is_red(points, is_red):
    figures = {"macs": 10, "parameters": 5, "latency_ms": 1.0, "images": 100}
    record = {"base": {**figures, "accuracy": 90.0}, "pruned": {**figures, "accuracy": 90.0 - points}, "settings": {}}
    html = page(Run(record, Plan({"a": LayerDecision("a", 3, (0,))}), name="a"))
    change = re.search(r'<dd class="([^"]*)">([-+][0-9.]+) points</dd>', html)
    assert float(change[2]) == -points
    assert change[1] == ("change loss" if is_red else "change")


def test_names_cannot_break_out_of_the_page():
    evil = "</script><script>alert(1)</script>"
    figures = {"macs": 10, "parameters": 5, "latency_ms": 1.0}
    record = {"base": figures, "pruned": figures, "settings": {"criterion": evil}}
    html = page(Run(record, Plan({evil: LayerDecision(evil, 3, (0,), reason=evil)}, {evil: evil}), name=evil))
    assert evil not in html
    assert data_of(html)["layers"][0]["name"] == evil


def test_other_runs_stand_beside(runs):
    html = page(runs["cmi"], [runs["l1"], runs["hrel"]])
    beside = html[html.index('id="against"') : html.index('id="layers"')]
    for name in ("cmi", "l1", "hrel"):
        assert f"{runs[name].record['pruned']['accuracy']:.2f} %" in beside
    assert 'id="against"' not in page(runs["cmi"])


@pytest.mark.parametrize("settings", [None, {}, {"machine": None}, {"machine": {}}], ids=str)
def test_a_record_need_not_say_how_it_was_made(runs, settings):
    record = {name: value for name, value in runs["l1"].record.items() if name != "settings"}
    html = page(replace(runs["l1"], record=record if settings is None else record | {"settings": settings}))
    assert f"{record['pruned']['accuracy']:.2f} %" in html


def test_an_export_is_shown(runs):
    export = {
        "onnx": {"file": "small.onnx", "bytes": 123_000, "max_abs_difference": 7.6e-06, "largest_output": 12.5},
        "latency_ms": {
            "base": {"pytorch": 3.21, "onnxruntime": 1.23},
            "network": {"pytorch": 2.5, "onnxruntime": 0.98},
        },
    }
    html = page(replace(runs["l1"], export=export))
    for text in ("small.onnx", "123 kB", "7.6e-06", "3.21 ms", "1.23 ms", "2.50 ms", "0.98 ms"):
        assert text in html


def test_a_comparison_marks_the_front(runs):
    html = comparison_page(list(runs.values()))
    data = data_of(html)
    for name, row in zip(runs, data["runs"], strict=True):
        assert row["accuracy"] == runs[name].record["pruned"]["accuracy"]
    best = max(range(len(runs)), key=lambda i: data["runs"][i]["accuracy"])
    assert best in data["fronts"]["macs"]
    with pytest.raises(InputError, match="nothing to compare"):
        comparison_page([])


def test_figures_for_papers_are_the_same_bytes_twice(runs, tmp_path):
    pytest.importorskip("matplotlib")
    files = run_figures(runs["cmi"], tmp_path / "a")
    again = run_figures(runs["cmi"], tmp_path / "b")
    layers = runs["cmi"].plan.decisions
    assert {file.name for file in files} == {
        f"{name}.{kind}" for name in ("filters", *(f"layer.{layer}" for layer in layers)) for kind in ("png", "svg")
    }
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        run_figures(runs["cmi"], tmp_path / "a")


def test_figures_say_the_cut(runs, tmp_path):
    pytest.importorskip("matplotlib")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        for name in ("cmi", "qsfm"):
            run_figures(runs[name], tmp_path / name)
        comparison_figures(list(runs.values()), tmp_path / "all")
    kept = len(runs["cmi"].plan.decisions["features.3"].kept)
    assert f"cut: {kept} kept" in (tmp_path / "cmi" / "layer.features.3.svg").read_text()
    assert "similarity (qsfm)" in (tmp_path / "qsfm" / "layer.features.3.svg").read_text()
    assert "Pareto front" in (tmp_path / "all" / "accuracy_against_macs.svg").read_text()


def test_a_missing_package_is_named(runs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install 'infoprune\[report\]'"):
        page(runs["l1"])
