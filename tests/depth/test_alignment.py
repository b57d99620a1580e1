"""Centred kernel alignment and the blocks that MPruner removes: the facts, and plain loops."""

import numpy as np
import pytest
import torch
from deep_networks import Plain, Tower, images, lively

from infoprune import zoo
from infoprune.depth import cka, clusters, find_blocks, mpruner, score_blocks, taken_from_clusters
from infoprune.depth.cka import BATCH
from infoprune.errors import InputError


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def unbiased(x, y):
    """n (n - 3) times the unbiased HSIC, by its sums (Song et al. 2012)."""
    one, other = (np.asarray(rows, float) @ np.asarray(rows, float).T for rows in (x, y))
    np.fill_diagonal(one, 0)
    np.fill_diagonal(other, 0)
    n, ones = len(one), np.ones(len(one))
    whole = ones @ one @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (one * other).sum() + whole - 2 / (n - 2) * (ones @ one @ other @ ones)


def slow(x, y):
    return unbiased(x, y) / np.sqrt(unbiased(x, x) * unbiased(y, y))


def test_numbers_worked_out_by_hand():
    x = column(0, 1, 2, 3)
    assert cka(x, 2 - 3 * x) == pytest.approx(1)
    assert cka(x, column(0, 1, 4, 9)) == pytest.approx(0.995317, abs=1e-6)
    assert cka(x, column(0, 1, 1, 0)) == pytest.approx(-0.693375, abs=1e-6)
    assert cka(column(0, 1, 2, 3, 4), column(0, 1, 4, 9, 16)) == pytest.approx(0.962361, abs=1e-6)


def test_against_the_sums_of_the_estimator():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=generator), torch.randn(9, 7, generator=generator)
    assert cka(x, y) == pytest.approx(slow(x, y), rel=1e-9)


def test_turning_and_scaling_changes_nothing_and_other_maps_do():
    x, y = torch.randn(12, 4).double(), torch.randn(12, 4).double()
    turned = torch.linalg.qr(torch.randn(4, 4).double())[0]
    assert cka(3 * x @ turned, y) == pytest.approx(cka(x, y))
    assert cka(x @ torch.diag(torch.tensor([9.0, 1, 1, 0.1]).double()), y) != pytest.approx(cka(x, y), rel=1e-3)


def test_a_cluster_is_as_similar_to_its_first_unit():
    rows = torch.full((4, 4), 100.0)
    rows[0] = rows[:, 0] = torch.tensor([100.0, 99, 97, 99])
    rows[2, 3] = rows[3, 2] = 99
    assert clusters(rows, 98) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("step", "taken"), [(1, [1, 2, 3, 4]), (2, [1, 3]), (3, [1, 4])])
def test_five_alike(step, taken):
    assert taken_from_clusters([[0, 1, 2, 3, 4]], step) == taken


def test_the_score_of_a_block_is_by_its_input_and_output():
    model = lively(Tower(Plain(6), Plain(6), Plain(6)))
    pictures = images(BATCH + 30)
    blocks = find_blocks(model, pictures[:2])
    found = score_blocks(model, blocks, pictures.split(25), "cka")
    with torch.no_grad():
        maps = [model.stem(pictures)]
        for block in model.stage:
            maps.append(block(maps[-1]))
    parts = [[part.flatten(1).double().numpy() for part in one.split(BATCH)] for one in maps]
    for place, block in enumerate(blocks):
        sums = [sum(unbiased(a, b) for a, b in zip(parts[i], parts[j], strict=True))
                for i, j in ((place, place + 1), (place, place), (place + 1, place + 1))]  # fmt: skip
        assert found[block.name] == pytest.approx(1 - sums[0] / np.sqrt(sums[1] * sums[2]), rel=1e-4)
    again = score_blocks(model, blocks, pictures.split(10), "cka")
    assert all(again[name] == pytest.approx(found[name], rel=1e-6) for name in found)


def test_blocks_that_change_little_are_removed_and_the_first_unit_stays():
    model = lively(Tower(*[Plain(6) for _ in range(5)]))
    with torch.no_grad():
        for place in (0, 1, 3, 4):
            for parameter in (model.stage[place].norm2.weight, model.stage[place].norm2.bias):
                parameter.mul_(1e-3)
        model.stage[2].norm2.weight.mul_(20)
    pictures = images(40)
    blocks = find_blocks(model, pictures[:2])
    # The input, 0 and 1 are one cluster; 2 begins the next.
    found = mpruner(model, blocks, [pictures], threshold=0.99)
    assert [block.name for block in found] == ["stage.0", "stage.1", "stage.3", "stage.4"]
    every_second = mpruner(model, blocks, [pictures], threshold=0.99, step=2)
    assert [block.name for block in every_second] == ["stage.0", "stage.3"]


def test_what_enters_a_stage_is_no_block():
    model = lively(zoo.build("resnet20"))
    example = torch.randn(8, 3, 32, 32)
    blocks = find_blocks(model, example)
    found = mpruner(model, blocks, [example], threshold=-2.0)
    assert found == blocks
    assert mpruner(model, blocks, [example], threshold=1.1) == ()


def test_too_few_images_are_refused():
    model = lively(Tower(Plain(6)))
    blocks = find_blocks(model, images(2))
    with pytest.raises(InputError, match="4 images or more"):
        score_blocks(model, blocks, [images(3)], "cka")
    with pytest.raises(InputError, match="a step of 1 or more, not 0"):
        mpruner(model, blocks, [images()], step=0)
    with pytest.raises(InputError, match="4 images or more, not 3 and 3"):
        cka(torch.zeros(3, 2), torch.zeros(3, 2))
