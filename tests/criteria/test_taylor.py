"""First-order Taylor scores, by hand and by automatic differentiation of each image."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infoprune.criteria import find
from infoprune.criteria.scoring import score
from infoprune.criteria.taylor import gate_scores, output_scores
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Residual, Separable

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 4


def scored(model, sizes=(12,), **options):
    data = list(zip(IMAGES.split(list(sizes)), LABELS.split(list(sizes)), strict=True))
    groups = find_groups(model, IMAGES[:2]).groups
    return score(model, groups, data, find("taylor"), options=options), groups


def maps_and_gradients(model, *layers):
    """Per image o and dL/do of some modules' outputs, image by image."""
    model = model.eval()
    found = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        kept, values = {}, {}

        def keep(layer, kept=kept, values=values):
            def hook(module, inputs, output):
                # The network goes on to add to one of them in place.
                kept[layer], values[layer] = output, output.detach().clone()

            return hook

        hooks = [model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, [kept[layer] for layer in layers])
        for one in hooks:
            one.remove()
        found.append([(values[layer][0], g[0]) for layer, g in zip(layers, gradients, strict=True)])
    return found


def products(model, *layers):
    """(images, C) sums over positions and layers of o dL/do."""
    rows = [sum((o * g).double().sum((1, 2)) for o, g in one) for one in maps_and_gradients(model, *layers)]
    return torch.stack(rows)


def test_one_filter_and_one_image():
    o, g = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.0, 0], [0, -1]])
    assert (o * g).sum() == -3
    assert output_scores((o * g).mean()[None, None]).item() * 0.75 == 0.75
    assert (o * g).mean().abs() == 0.75
    assert gate_scores((o * g).sum()[None, None], 1).item() == 9


def test_two_images_can_cancel_in_the_mean_loss():
    two = torch.tensor([[2.0], [-2.0]])
    assert gate_scores(two, 2).item() == 0
    assert gate_scores(two, 1).item() == 4


def test_what_is_left_over_counts_only_alone():
    three = torch.tensor([[1.0], [3.0], [100.0]])
    assert gate_scores(three, 2).item() == 4
    assert gate_scores(three, 4).item() == pytest.approx((104 / 3) ** 2)


class Linear(nn.Module):
    """A loss that is linear in the maps: cross entropy of logits (y, 0) far from 0 is nearly so."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 2)
        with torch.no_grad():
            self.fc.weight[0] = torch.tensor([0.5, -1.0, 2.0, 0.1])
            self.fc.weight[1] = 0
            self.fc.bias.copy_(torch.tensor([-60.0, 0.0]))

    def forward(self, x):
        return self.fc(self.conv(x).sum((2, 3)) * 0.05)


def test_a_linear_loss_changes_by_exactly_the_score():
    model = Linear().double().eval()
    images, labels = IMAGES.double(), torch.zeros(12, dtype=torch.long)
    groups = find_groups(model, images[:2]).groups
    found = score(model, groups, [(images, labels)], find("taylor"), options={"batch": 1})["conv"].scores
    for f in range(4):
        with (
            model.conv.register_forward_hook(lambda m, i, o, f=f: o * (torch.arange(4) != f)[:, None, None]),
            torch.no_grad(),
        ):
            without = F.cross_entropy(model(images), labels, reduction="none")
        with torch.no_grad():
            change = F.cross_entropy(model(images), labels, reduction="none") - without
        assert torch.allclose(found[f], change.square().mean(), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 12])
def test_the_gate_against_each_image_alone(batch):
    model = Residual().eval()
    found, _ = scored(model, batch=batch)
    inner = products(model, "inner1.1")
    assert torch.allclose(found["inner1.0"].scores, gate_scores(inner, batch), rtol=1e-3, atol=1e-9)
    stream = products(model, "stem.1", "norm1", "norm2")
    assert torch.allclose(found["stem.0"].scores, gate_scores(stream, batch), rtol=1e-3, atol=1e-9)
    assert found["stem.0"].comparable


def test_the_output_form_is_normalised_in_the_layer():
    model = Residual().eval()
    found, _ = scored(model, form="output")
    mean = (products(model, "inner1.1") / 64).abs().mean(0)
    assert torch.allclose(found["inner1.0"].scores, mean / mean.norm(), rtol=1e-3)
    assert not found["inner1.0"].comparable


def test_the_weight_form_squares_every_weight():
    model = Residual().eval()
    found, _ = scored(model, sizes=(5, 7), form="weight", batch=4)
    slow = torch.zeros(12, dtype=torch.float64)
    for part in range(3):
        model.zero_grad()
        some = slice(4 * part, 4 * part + 4)
        F.cross_entropy(model(IMAGES[some]), LABELS[some]).backward()
        slow += (model.inner1[0].weight * model.inner1[0].weight.grad).double().square().sum((1, 2, 3)) / 3
    assert torch.allclose(found["inner1.0"].scores, slow, rtol=1e-3)


@pytest.mark.parametrize("form", ["gate", "output", "weight"])
def test_any_split_into_batches_scores_alike(form):
    model = Separable().eval()
    whole, groups = scored(model, form=form, batch=5)
    split, _ = scored(model, (1, 4, 7), form=form, batch=5)
    assert list(whole) == [group.name for group in groups]
    for name in whole:
        assert torch.allclose(whole[name].scores, split[name].scores, rtol=1e-3, atol=1e-9)


def test_a_mean_over_layers_divides_by_their_number():
    model = Residual().eval()
    summed, groups = scored(model)
    mean, _ = scored(model, shared="mean")
    for group in groups:
        assert torch.allclose(mean[group.name].scores * len(group.producers), summed[group.name].scores)


def test_copies_tie():
    model = Residual().eval()
    with torch.no_grad():
        for layer in (model.inner1[0], model.inner1[1]):
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.ndim:
                    tensor[7] = tensor[2]
        model.outer1.weight[:, 7] = model.outer1.weight[:, 2]
    for form in ("gate", "output", "weight"):
        found = scored(model, form=form)[0]["inner1.0"]
        assert torch.isclose(found.scores[2], found.scores[7], rtol=1e-4, atol=1e-12)


def test_without_labels_the_networks_own_answers_do():
    model = Residual().eval()
    groups = find_groups(model, IMAGES[:2]).groups
    with pytest.raises(InputError, match="need labels"):
        score(model, groups, [IMAGES], find("taylor"))
    own = score(model, groups, [IMAGES], find("taylor"), options={"labels": "own"})
    assert all(torch.isfinite(one.scores).all() for one in own.values())


@pytest.mark.parametrize("options", [{"form": "x"}, {"batch": 0}, {"shared": "x"}, {"colour": 1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match="form|mean loss|shared|colour"):
        scored(Residual().eval(), **options)
