"""The greedy order against the golden values of the authors' own functions, and against brute force."""

import itertools
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


def test_the_importance_may_be_the_place_in_the_order():
    found = cmi(*draw(), score="rank")
    assert [found.scores[i].item() for i in found.order] == list(range(8, 0, -1))
    assert not found.comparable


def test_the_importance_is_what_is_left_to_be_told_without_a_filter_and_those_behind_it():
    found = cmi(*draw())
    assert found.comparable
    assert int(found.evidence["saturated_at"]) == 8
    scores = [found.scores[i].item() for i in found.order]
    assert scores == pytest.approx([found.evidence["whole"].item(), *found.curve[:-1]], abs=1e-12)
    assert scores == sorted(scores, reverse=True)


def test_behind_saturation_the_importance_goes_down_in_a_straight_line():
    maps, labels = draw(filters=24)
    # A kernel so narrow that a few filters tell all there is to tell.
    found = cmi(torch.cat([maps, torch.zeros(40, 1, 4, 4)], dim=1), labels, width=1.0)
    at = int(found.evidence["saturated_at"])
    assert 0 < at < 20
    tail = [found.scores[i].item() for i in found.order[at:]]
    assert tail[-1] == 0
    steps = [a - b for a, b in itertools.pairwise(tail)][:-1]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6, abs=1e-20)
    assert all(a >= b for a, b in itertools.pairwise(tail))


def test_a_layer_of_dead_filters_has_nothing_to_tell():
    found = cmi(torch.ones(40, 3, 4, 4), torch.arange(40) % 4)
    assert found.scores.tolist() == [0, 0, 0]
    assert found.comparable


def test_what_is_given_is_told_already():
    maps, labels = draw()
    alone, given = cmi(maps, labels), cmi(maps, labels, [maps[:, :4]])
    assert alone.evidence["given"] == 0
    assert given.evidence["given"] > 0
    assert given.evidence["given"] + given.evidence["whole"] > alone.evidence["whole"]
    assert given.evidence["whole"] + given.evidence["given"] == pytest.approx(given.evidence["total"].item())


def test_golden_values_given_the_layer_before(golden_dir):
    expected = json.loads((golden_dir / "cmi.json").read_text())["cross_layer"]
    maps, labels = golden_maps()
    i, c, y, x = torch.meshgrid(*(torch.arange(size).double() for size in (16, 2, 2, 3)), indexing="ij")
    before = torch.cos(0.9 * i + 0.6 * c + 0.5 * y + 0.2 * x).clamp(min=0)
    found = cmi(maps, labels, [before], width="silverman", label_kernel="silverman", method="exact", alpha=1.01)
    assert list(found.order[:5]) == expected["order"]
    assert np.allclose(np.array(found.curve[:5]) * math.log(2), expected["cmi"], atol=1e-9)
    assert abs(found.evidence["total"].item() * math.log(2) - expected["I_Y_F_P"]) < 1e-9


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


def test_an_unknown_score_is_refused():
    with pytest.raises(InputError, match="did you mean 'rank'"):
        cmi(*draw(), score="ranks")


def test_it_is_given_256_images():
    assert find("cmi").images == 256
