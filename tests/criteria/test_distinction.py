"""Sets of filters and how far apart they keep the next layer's maps: by hand, by plain loops, by frequencies."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infoprune.criteria import find
from infoprune.criteria.distinction import distinction_of, search, votes
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual, Separable, images


def scored(model, batches, **options):
    groups = find_groups(model, batches[0][:2]).groups
    return groups, score(model, groups, batches, find("distinction"), options=options)


def test_maps_at_a_right_angle_are_distinct_and_multiples_are_not():
    assert distinction_of(torch.tensor([[[1.0, 0], [0, 1]]])) == 1
    assert distinction_of(torch.tensor([[[1.0, 0], [2, 0]]])) == 0
    assert distinction_of(torch.tensor([[[1.0, 0], [-1, 0]]])) == 2
    assert distinction_of(torch.zeros(1, 2, 4)) == 0


def test_results_of_one_position_are_compared_over_the_images():
    results = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert distinction_of(results[:, :, None]) == pytest.approx(0, abs=1e-12)
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert distinction_of(apart[:, :, None]) == 1


def test_the_first_sets_hold_each_filter_equally_often():
    drawn, _ = search(10, 4, 3000, 1, torch.Generator().manual_seed(0), lambda kept: 0.0)
    assert (drawn.sum(1) == 4).all()
    assert drawn.double().mean(0).sub(0.4).abs().max() < 0.03


def test_later_sets_follow_the_votes_of_the_best():
    def worth(kept):
        return float(kept[:3].sum())

    drawn, found = search(10, 3, 64, 4, torch.Generator().manual_seed(0), worth)
    assert found.tolist() == [worth(kept) for kept in drawn]
    assert found[-64:].mean() > 2 * found[:64].mean()
    shares = votes(drawn, found)
    assert shares[:3].min() > shares[3:].max()
    assert math.isclose(shares.sum().item(), 3, rel_tol=1e-9)


def test_every_set_is_measured_on_the_next_layers_maps():
    model, batches = Plain().eval(), images(8)
    groups, found = scored(model, batches, sets=4, generations=2)
    evidence = found["first.0"].evidence
    with torch.no_grad():
        maps = torch.cat([model.first(some) for some in batches])
        for kept, worth in zip(evidence["sets"], evidence["distinction"].tolist(), strict=True):
            result = model.middle(maps * kept[None, :, None, None]).flatten(2).double()
            pairs = [float(1 - F.cosine_similarity(image[i], image[j], dim=0))
                     for image in result for i in range(6) for j in range(6) if i != j]  # fmt: skip
            assert worth == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    # The classifier behind pooling gives one number for each image.
    linear = found["middle"].evidence
    with torch.no_grad():
        inputs = torch.cat([F.relu(model.middle(model.first(some))).mean((2, 3)) for some in batches])
        result = model.fc(inputs * linear["sets"][0]).double().T
        pairs = [float(1 - F.cosine_similarity(result[i], result[j], dim=0))
                 for i in range(4) for j in range(4) if i != j]  # fmt: skip
    assert linear["distinction"][0].item() == pytest.approx(sum(pairs) / 12, rel=1e-5)
    assert [group.name for group in groups] == ["first.0", "middle"]


@pytest.mark.parametrize("network", [Residual, Separable])
def test_every_group_is_scored_whatever_reads_it(network):
    model, batches = network().eval(), images(8)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    groups, found = scored(model, batches, sets=8)
    for group in groups:
        size = max(1, round(0.5 * len(group.units))) / len(group.units) * group.filters
        assert found[group.name].scores.sum().item() == pytest.approx(size, rel=1e-9)
    assert all(map(torch.equal, before, model.state_dict().values()))
    again = scored(model, batches, sets=8)[1]
    assert all(torch.equal(found[name].scores, again[name].scores) for name in found)


def test_a_filter_that_makes_all_maps_alike_is_removed_first():
    # Without filter 0 the next maps are those of the others, each for itself; with it they are all about its own.
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 3, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.cat([torch.ones(1, 3), torch.eye(3)])[:, :, None, None])
        model[1].weight.copy_(torch.cat([torch.full((3, 1), 9.0), torch.eye(3)], dim=1)[:, :, None, None])
    _, found = scored(model, [torch.rand(4, 3, 5, 5)], share=0.75)
    assert found["0"].order[-1] == 0


def test_wrong_options_are_refused():
    for options, message in (
        ({"share": 1.0}, "holds a share above 0 and below 1, not 1.0"),
        ({"sets": 2}, "takes sets of 4 or more, not 2"),
        ({"generations": 0}, "takes generations of 1 or more, not 0"),
    ):
        with pytest.raises(InputError, match=message):
            scored(Plain().eval(), images(4), **options)
