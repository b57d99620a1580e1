"""Layer-wise relevance by its published rule, layer by layer and by hand, against the criterion."""

import pytest
import torch
from torch import nn

from infoprune.criteria import find
from infoprune.criteria.gates import gate_products
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.gradients import logits_and_labels
from nets import Residual

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 4


def dense():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)
    ).eval()


def by_the_rule(model, image, label):
    """The rule with epsilon = 0: every layer as a matrix, relevance handed back from matrix to matrix."""
    value, inputs, outputs, matrices = image[None], [], [], []
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            inputs.append(value.detach().flatten().double())
            matrix = torch.autograd.functional.jacobian(layer, value)
            value = layer(value)
            matrices.append(matrix.reshape(value.numel(), -1).double())
            outputs.append(value.detach().flatten().double())
        else:
            value = layer(value)
    relevance, found = outputs[-1] * (torch.arange(4) == label), []
    for matrix, before, after in zip(reversed(matrices), reversed(inputs), reversed(outputs), strict=True):
        # What a bias gives to an output takes its share of the relevance.
        relevance = before * (matrix.T @ torch.where(relevance != 0, relevance / after, 0.0))
        found.append(relevance)
    return found


def relevance_of(model):
    def answers(logits, labels):
        logits, labels = logits_and_labels(logits, labels)
        return logits.gather(1, labels[:, None]).sum()

    groups = find_groups(model, IMAGES[:2]).groups
    return gate_products(model, groups, [(IMAGES, LABELS)], of=answers)


def test_relevance_is_conserved():
    """a = (1, 2), w = (1, 1), R = 3: each input takes its share of the sum."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2.0])[:, None, None, None])
        net[2].weight.fill_(1.0)
    images = torch.ones(1, 1, 1, 1)
    groups = find_groups(net.eval(), images).groups
    found = gate_products(net, groups, [(images, torch.tensor([0]))], of=lambda logits, labels: logits.sum())
    assert found["0"].tolist() == [[1.0, 2.0]]


def test_relevance_is_that_of_the_published_rule():
    model = dense()
    found = relevance_of(model)
    for number in range(len(IMAGES)):
        second, first, _ = by_the_rule(model, IMAGES[number], int(LABELS[number]))
        torch.testing.assert_close(found["2"][number], second.reshape(6, -1).sum(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["0"][number], first.reshape(5, -1).sum(1), rtol=1e-4, atol=1e-5)


def scored(model, **options):
    groups = find_groups(model, IMAGES[:2]).groups
    return score(model, groups, [(IMAGES, LABELS)], find("lrp"), options=options)


def test_scores_are_the_share_in_the_layer_times_the_share_in_the_network():
    model = dense()
    mean = {name: part.abs().mean(0) for name, part in relevance_of(model).items()}
    total = sum(part.sum() for part in mean.values())
    for name, found in scored(model).items():
        torch.testing.assert_close(found.scores, mean[name] ** 2 / (mean[name].sum() * total))
        assert found.comparable


def test_costs_weigh_the_classes():
    model = dense()
    equal, twice = scored(model), scored(model, costs=(2.0,) * 4)
    for name, found in equal.items():
        torch.testing.assert_close(found.scores, twice[name].scores)
    only = scored(model, costs=(0.0, 1.0, 0.0, 0.0))
    mine = LABELS == 1
    groups = find_groups(model, IMAGES[:2]).groups
    alone = score(model, groups, [(IMAGES[mine], LABELS[mine])], find("lrp"))
    for name, found in alone.items():
        torch.testing.assert_close(found.scores, only[name].scores)


def test_residual_groups_add_their_layers():
    found = scored(Residual().eval())
    assert all(torch.isfinite(one.scores).all() for one in found.values())
    assert sum(float(one.scores.sum()) for one in found.values()) > 0


@pytest.mark.parametrize("costs", [(1.0, -1.0, 1.0, 1.0), (0.0,) * 4, (float("nan"),) * 4, (1.0,) * 3])
def test_wrong_costs_are_refused(costs):
    with pytest.raises(InputError, match="costs"):
        scored(dense(), costs=costs)
