"""The values that the authors' own functions of arXiv 2411.18578 give."""

import json

import pytest
import torch

from infoprune.entropy import greedy_order

AS_PUBLISHED = {"alpha": 1.01, "width": "silverman", "label_kernel": "silverman", "unit": "nats"}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "cmi.json").read_text())


@pytest.fixture(scope="module")
def labels():
    return torch.arange(16) % 4


@pytest.fixture(scope="module")
def maps():
    i, c, y, x = _grid(16, 6, 2, 3)
    return torch.relu(torch.sin(1.3 * i + 0.7 * c + 0.4 * y + 0.9 * x) + 0.5 * torch.cos(0.5 * (c + 1) * (i % 4)))


@pytest.fixture(scope="module")
def previous_maps():
    i, c, y, x = _grid(16, 2, 2, 3)
    return torch.relu(torch.cos(0.9 * i + 0.6 * c + 0.5 * y + 0.2 * x))


def _grid(*sizes):
    return torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in sizes), indexing="ij")


def _variables(maps):
    from infoprune.entropy import variables

    return variables(maps)


@pytest.mark.parametrize("method", ["exact", "hybrid"])
def test_order_and_curve_of_one_layer(golden, maps, labels, method):
    expected = golden["per_layer"]
    result = greedy_order(_variables(maps), labels, method=method, **AS_PUBLISHED)
    assert result.order[:5] == tuple(expected["order"])
    assert result.cmi[:5] == pytest.approx(expected["cmi"], abs=1e-9)
    assert result.information[:5] == pytest.approx(expected["mi_selected"], abs=1e-9)
    assert result.total == pytest.approx(expected["I_Y_F"], abs=1e-9)
    assert result.label_entropy == pytest.approx(expected["H_Y"], abs=1e-9)


@pytest.mark.parametrize("method", ["exact", "hybrid"])
def test_order_and_curve_given_the_layer_before(golden, maps, previous_maps, labels, method):
    expected = golden["cross_layer"]
    result = greedy_order(_variables(maps), labels, _variables(previous_maps), method=method, **AS_PUBLISHED)
    assert result.order[:5] == tuple(expected["order"])
    assert result.cmi[:5] == pytest.approx(expected["cmi"], abs=1e-9)
    assert result.total == pytest.approx(expected["I_Y_F_P"], abs=1e-9)
