"""The greedy order against the golden values of the authors' own functions, and against brute force."""

import json
import math

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.cmi import conditional_mutual_information_order as cmi
from infoprune.errors import InputError


def golden_maps():
    i, c, y, x = torch.meshgrid(*(torch.arange(size).double() for size in (16, 6, 2, 3)), indexing="ij")
    label = i % 4
    maps = torch.sin(1.3 * i + 0.7 * c + 0.4 * y + 0.9 * x) + 0.5 * torch.cos(0.5 * (c + 1) * label)
    return maps.clamp(min=0), torch.arange(16) % 4


def test_the_golden_values_of_the_released_code(golden_dir):
    expected = json.loads((golden_dir / "cmi.json").read_text())["per_layer"]
    maps, labels = golden_maps()
    criterion = create(
        find("cmi"),
        Filters((), (), "conv"),
        options={"width": "silverman", "label_kernel": "silverman", "alpha": 1.01, "method": "exact"},
    )
    criterion.update(maps[:5], labels[:5])
    criterion.update(maps[5:], labels[5:])
    found = criterion.compute()
    assert list(found.order[:5]) == expected["order"]
    nats = math.log(2)
    assert np.allclose(np.array(found.curve[:5]) * nats, expected["cmi"], atol=1e-9)
    assert np.allclose(found.evidence["information"][:5].numpy() * nats, expected["mi_selected"], atol=1e-9)
    assert abs(found.evidence["total"].item() * nats - expected["I_Y_F"]) < 1e-9
    assert abs(found.evidence["label_entropy"].item() * nats - expected["H_Y"]) < 1e-9
    assert abs(found.evidence["saturation"].item() - expected["I_Y_F"] / expected["H_Y"]) < 1e-8


def draw(n=40, filters=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    maps = torch.randn(n, filters, 4, 4, generator=generator)
    maps += torch.linspace(0, 1, filters)[:, None, None] * torch.randn(4, filters, 4, 4, generator=generator)[labels]
    return maps.relu(), labels


def test_the_importance_is_the_place_in_the_order():
    found = cmi(*draw())
    assert [found.scores[i].item() for i in found.order] == list(range(8, 0, -1))


def test_the_curve_falls_to_zero_and_saturation_is_told():
    found = cmi(*draw())
    assert len(found.curve) == 8
    assert found.curve[-1] == 0
    assert max(found.curve[1:]) <= found.curve[0]
    assert 0 < found.evidence["saturation"] <= 1 + 1e-9
    assert 1 <= found.evidence["saturated_at"] <= 8


def test_dead_filters_add_nothing_and_take_nothing():
    maps, labels = draw()
    plain = cmi(maps, labels)
    widened = torch.cat([torch.full((40, 1, 4, 4), 0.3), maps, torch.zeros(40, 1, 4, 4)], dim=1)
    found = cmi(widened, labels)
    assert list(found.order) == [i + 1 for i in plain.order] + [0, 9]
    assert found.curve == (*plain.curve, 0.0, 0.0)
    assert torch.equal(found.evidence["information"][:8], plain.evidence["information"])
    assert found.evidence["information"][8:].tolist() == [plain.evidence["total"].item()] * 2


def test_images_of_one_class_are_refused():
    maps, labels = draw()
    with pytest.raises(InputError, match="all 40 calibration images are of class 2"):
        cmi(maps, torch.full_like(labels, 2))


def test_it_is_given_256_images():
    assert find("cmi").images == 256
