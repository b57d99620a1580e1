"""A run is kept whole, without pickle, and read again as it was."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from infoprune.errors import InputError
from infoprune.report import pareto_front, read_run, write_run
from infoprune.report.comparison import distinct
from infoprune.report.keep import weight_bytes
from infoprune.report.pictures import PIXELS, as_bytes, take_pictures
from infoprune.report.views import closest_pairs, layer_views, likeness, short, summary_rows


def test_what_is_kept_is_what_was_found(runs):
    run = runs["cmi"]
    assert run.name == "cmi"
    assert run.plan.settings["criterion"] == "cmi"
    for layer, decision in run.plan.decisions.items():
        assert run.evidence[layer]["cmi"].tolist() == list(decision.curve)
        assert run.pictures.maps[layer].shape[:2] == (3, decision.filters)
        assert run.record["layers"][layer]["macs_after"] < run.record["layers"][layer]["macs"]
    assert sum(each["macs"] for each in run.record["layers"].values()) == run.record["base"]["macs"]
    assert sum(each["macs_after"] for each in run.record["layers"].values()) == run.record["pruned"]["macs"]
    assert run.record["weight_bytes"]["pruned"] < run.record["weight_bytes"]["base"]


def test_a_run_is_the_same_after_writing_and_reading(runs, tmp_path):
    write_run(runs["qsfm"], tmp_path / "again")
    again = read_run(tmp_path / "again")
    assert again.record == runs["qsfm"].record
    assert again.plan == runs["qsfm"].plan
    for layer, tensors in runs["qsfm"].evidence.items():
        for name, tensor in tensors.items():
            assert torch.equal(again.evidence[layer][name], tensor)
    assert all(torch.equal(maps, runs["qsfm"].pictures.maps[layer]) for layer, maps in again.pictures.maps.items())


def test_candidates_and_the_plane_are_kept(rounds_run):
    first, second = layer_views(rounds_run)[:2]
    assert [(one.count, one.accuracy) for one in first.candidates] == [(3, 90.5), (5, None), (8, 97.25)]
    assert second.candidates == ()
    assert len(rounds_run.plane) == 20
    assert rounds_run.plane[-1].round == 1


def test_runs_are_not_replaced_unasked(runs, tmp_path):
    write_run(runs["l1"], tmp_path / "run")
    with pytest.raises(InputError, match="exists already"):
        write_run(runs["l1"], tmp_path / "run")
    write_run(runs["l1"], tmp_path / "run", force=True)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("record.json", "{}", "no figures of base and pruned"),
        ("record.json", "{", "is not JSON"),
        ("record.json", "[]", "must hold a JSON object"),
        ("plan.json", '{"format": 99}', "not a plan of a format"),
        ("evidence.safetensors", "cut off", "not a whole safetensors file"),
        ("record.json", None, "holds no run"),
    ],
)
def test_a_damaged_run_is_named(runs, tmp_path, name, content, sentence):
    write_run(runs["l1"], tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_run(tmp_path / "run")


def test_an_export_beside_a_run_is_read(runs, tmp_path):
    write_run(runs["l1"], tmp_path / "run")
    assert read_run(tmp_path / "run").export is None
    (tmp_path / "run" / "export.json").write_text(json.dumps({"onnx": {"bytes": 3}}))
    assert read_run(tmp_path / "run").export == {"onnx": {"bytes": 3}}


def test_pictures_are_of_different_classes_and_the_network_is_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2)).train()
    images = torch.rand(6, 1, 8, 8)
    taken = take_pictures(model, [(images, torch.tensor([1, 1, 1, 0, 0, 2]))], ["0"])
    expected = [(images[i] * 255).round().to(torch.uint8) for i in (0, 3, 5)]
    assert torch.equal(taken.images, torch.stack(expected))
    assert torch.equal(taken.maps["0"], as_bytes(torch.relu(model[0](images[[0, 3, 5]])).detach()))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_pictures_of_a_large_network_stay_small():
    model = nn.Sequential(nn.Conv2d(3, 3000, 1), nn.ReLU())
    maps = take_pictures(model, [(torch.rand(3, 3, 40, 40), torch.arange(3))], ["0"]).maps["0"]
    assert maps.numel() <= PIXELS
    assert maps.shape[2:] == (12, 12)


def test_maps_as_bytes_reach_from_black_to_white_and_constant_ones_are_black():
    maps = torch.stack([torch.linspace(-3, 7, 16).view(4, 4), torch.full((4, 4), 5.0)])[None]
    found = as_bytes(maps)
    assert (int(found[0, 0].min()), int(found[0, 0].max())) == (0, 255)
    assert not found[0, 1].any()


def test_likeness_is_correlation():
    maps = torch.rand(2, 5, 4, 4)
    maps[:, 3] = 0.5
    maps[:, 4] = 1 - 2 * maps[:, 0]
    expected = torch.corrcoef(maps.movedim(1, 0).flatten(1).double()[[0, 1, 2, 4]])
    found = likeness(maps)
    torch.testing.assert_close(found[[0, 1, 2, 4]][:, [0, 1, 2, 4]], expected)
    assert not found[3].any()


def test_pairs_are_of_a_removed_and_a_kept_filter_most_alike_first():
    alike = torch.tensor([[1, 0.2, 0.9, 0.4], [0.2, 1, 0.5, 0.7], [0.9, 0.5, 1, 0.99], [0.4, 0.7, 0.99, 1]])
    pairs = closest_pairs(alike, kept=(0, 1), gone=(2, 3))
    assert [(pair.removed, pair.kept) for pair in pairs] == [(2, 0), (3, 1)]
    assert [pair.alike for pair in pairs] == pytest.approx([0.9, 0.7])
    assert closest_pairs(alike, kept=(0, 1, 2, 3), gone=()) == ()


def test_every_criterion_has_its_figure(runs):
    figures = {name: {view.figure for view in layer_views(run)} for name, run in runs.items()}
    assert figures == {"cmi": {"curve"}, "qsfm": {"matrix"}, "hrel": {"scores"}, "l1": {"scores"}}


def test_the_summary_says_what_changed(runs):
    rows = {row["label"]: row for row in summary_rows(runs["l1"])}
    assert set(rows) == {"Accuracy", "Loss", "MACs", "Parameters", "Weights in a file", "Latency"}
    base, pruned = (runs["l1"].record[each] for each in ("base", "pruned"))
    assert rows["Accuracy"]["change"] == f"{pruned['accuracy'] - base['accuracy']:+.2f} points"
    assert rows["MACs"]["change"] == f"{100 * pruned['macs'] / base['macs'] - 100:+.1f} %"


def test_weight_bytes_are_of_parameters_and_statistics():
    assert weight_bytes(nn.BatchNorm2d(8)) == 4 * 8 * 4 + 8


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (999, "999"), (1000, "1 k"), (125_485_696, "125 M"), (4.1e9, "4.1 G"), (61_050, "61 k")],
)
def test_counts_have_three_digits(number, text):
    assert short(number) == text


points = st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9))), max_size=12)


@given(points)
def test_the_front_is_what_nothing_beats(given_points):
    front = set(pareto_front(given_points))
    for index, (cost, accuracy) in enumerate(given_points):
        if accuracy is None:
            assert index not in front
            continue
        beaten = any(
            (other <= cost and better > accuracy) or (other < cost and better >= accuracy)
            for other, better in given_points
            if better is not None
        )
        assert (index in front) is not beaten


def test_runs_of_one_name_are_numbered(runs):
    same = [runs["l1"], runs["l1"], runs["cmi"]]
    assert [run.name for run in distinct(same)] == ["l1 1", "l1 2", "cmi"]
