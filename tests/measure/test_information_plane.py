"""The points of an information plane are those of the formulas, and noting them changes nothing."""

import copy
import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.measure.information_plane import (
    InformationPlane,
    PlanePoint,
    averaged,
    check_points_file,
    read_points,
    write_points,
)
from infoprune.report.information_plane import plane_figures
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

POINTS = [
    PlanePoint(round_, step, layer, step / 10 + len(layer), 2.0 + round_ / 3, 5.0 + step)
    for round_ in (0, 1)
    for step in range(4)
    for layer in ("conv1", "fc")
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def draw(seed=0, n=40):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator)


def entropy(K):
    eigenvalues = np.linalg.eigvalsh(K / np.trace(K))
    eigenvalues = eigenvalues[eigenvalues > 1e-14]
    return -(eigenvalues * np.log2(eigenvalues)).sum()


def distances(x):
    x = x.reshape(len(x), -1)
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def best_width(x, labels, points):
    same, d2 = labels[:, None] == labels[None], distances(x)
    grid = np.linspace(0.3, 10 * np.sqrt(d2).mean(), points)
    found = [(np.exp(-d2 / s**2) * same).sum() / np.sqrt((np.exp(-d2 / s**2) ** 2).sum()) for s in grid]
    return grid[int(np.argmax(found))]


def test_every_point_is_what_the_formulas_say():
    model, plane = network().eval(), InformationPlane(images=25)
    batches = [draw(0), draw(1)]
    for step, (images, labels) in enumerate(batches):
        plane(model, images, labels, step)
    width, points = None, iter(plane.points)
    for images, labels in batches:
        x, y = images[:25].double().numpy(), labels[:25].numpy()
        with torch.no_grad():
            maps = model[0](images[:25]).double().numpy()
        best = best_width(maps, y, 300 if width is None else 100)
        width = best if width is None else 0.9 * width + 0.1 * best
        K, X = np.exp(-distances(maps) / width**2), np.exp(-distances(x) / 8.0**2)
        Y = (y[:, None] == y[None]).astype(float)
        point = next(points)
        assert point.layer == "0"
        assert point.width == pytest.approx(width, rel=1e-6)
        assert point.input_bits == pytest.approx(entropy(K) + entropy(X) - entropy(K * X), abs=1e-5)
        assert point.label_bits == pytest.approx(entropy(K) + entropy(Y) - entropy(K * Y), abs=1e-5)
        assert next(points).layer == "4"
    assert next(points, None) is None


def test_only_every_nth_step_and_the_named_layers_are_noted_and_the_network_is_left_alone():
    model, plane = network().train(), InformationPlane(["0"], every=3)
    before = copy.deepcopy(model.state_dict())
    for step in range(7):
        plane(model, *draw(step), step)
    assert [(point.step, point.layer) for point in plane.points] == [(0, "0"), (3, "0"), (6, "0")]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_step_that_is_repeated_replaces_what_came_of_it():
    model, plane = network(), InformationPlane(["0"])
    for step in range(3):
        plane(model, *draw(step), step)
    once = list(plane.points)
    plane.rewind(1)
    assert plane.points == once[:1]
    for step in (1, 2, 1, 2):
        plane(model, *draw(step), step)
    assert plane.points == once
    plane.round = 1
    plane(model, *draw(5), 0)
    assert plane.points[:3] == once
    assert plane.points[3].round == 1


def test_a_smaller_batch_is_left_out():
    model, plane = network(), InformationPlane(["0"], images=100)
    for step, count in enumerate((40, 1, 30, 40, 50)):
        plane(model, *draw(step, count), step)
    assert [point.step for point in plane.points] == [0, 3, 4]


def test_a_training_that_is_watched_ends_with_the_same_weights():
    images, labels = draw(n=64)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    recipe = Recipe(epochs=2, learning_rate=0.05, precision="32-true")
    plane = InformationPlane(every=2, images=16)
    watched, alone = (train(network(), loader, None, recipe, on_step=step).model for step in (plane, None))
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )
    assert [(point.step, point.layer) for point in plane.points] == [(s, x) for s in (0, 2, 4, 6) for x in ("0", "4")]


def test_windows_are_means_that_stay_inside_a_round():
    found = averaged(POINTS, 3)
    assert [(p.round, p.step, p.layer) for p in found[:4]] == [
        (0, 2, "conv1"),
        (0, 2, "fc"),
        (0, 3, "conv1"),
        (0, 3, "fc"),
    ]
    assert found[0].width == pytest.approx(6.0)
    assert found[0].input_bits == pytest.approx(5.1)
    assert len(found) == 8
    assert averaged(POINTS, 1) == POINTS


def test_points_are_read_as_they_were_written(tmp_path):
    points = [dataclasses.replace(point, input_bits=point.input_bits / 3) for point in POINTS]
    write_points(points, tmp_path / "plane.csv")
    assert read_points(tmp_path / "plane.csv") == points
    with pytest.raises(InputError, match="exists already"):
        write_points(points, tmp_path / "plane.csv")


def test_parquet_holds_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    write_points(POINTS, tmp_path / "plane.parquet")
    assert read_points(tmp_path / "plane.parquet") == POINTS


def test_parquet_without_pyarrow_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="needs the package pyarrow"):
        check_points_file(tmp_path / "plane.parquet")


def test_the_three_figures_are_drawn_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    first, second = (plane_figures(POINTS, tmp_path / name) for name in "ab")
    assert {path.name for path in first} == {
        f"{name}.{kind}" for name in ("plane", "plane_rounds", "plane_widths") for kind in ("png", "svg")
    }
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    marked, plain = ((tmp_path / "a" / f"{name}.svg").read_text() for name in ("plane_rounds", "plane"))
    assert len(marked) > len(plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: InformationPlane(every=0), "not 0 and 100"),
        (lambda path: InformationPlane(["conv9"])(network(), *draw(), 0), "unknown layer 'conv9'"),
        (lambda path: averaged(POINTS, 0), "at least 1 point"),
        (lambda path: plane_figures([], path), "no points to draw"),
        (lambda path: check_points_file(path / "x.json"), ".csv or .parquet, not 'x.json'"),
        (lambda path: read_points(path / "none.csv"), "does not exist"),
    ],
)
def test_mistakes_are_told_in_one_sentence(make, words, tmp_path):
    with pytest.raises(InputError, match=words):
        make(tmp_path)


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="holds no points of an information plane"):
        read_points(tmp_path / "x.csv")
