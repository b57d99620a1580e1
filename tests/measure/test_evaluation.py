"""Accuracy and loss are those of a plain loop, and whatever cannot be measured is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infoprune.errors import InputError
from infoprune.measure.accuracy import evaluate


class Echo(nn.Module):
    """Gives the pixels of the first channel as logits."""

    def forward(self, images):
        return images[:, 0].flatten(1)


def batches(sizes=(7, 7, 3), classes=6):
    return [(torch.randn(n, 1, 2, 3), torch.randint(0, classes, (n,))) for n in sizes]


def test_figures_are_those_of_one_big_batch():
    data = batches()
    logits = torch.cat([images.flatten(1) for images, _ in data])
    labels = torch.cat([labels for _, labels in data])
    measured = evaluate(Echo(), data)
    assert measured.images == 17
    assert measured.accuracy == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert measured.loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    assert measured.top5 >= measured.accuracy


def test_the_network_is_measured_in_eval_mode_and_left_as_it_was():
    network = nn.Sequential(nn.Dropout(0.9), Echo(), nn.BatchNorm1d(6)).train()
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    data = batches()
    assert evaluate(network, data).loss == evaluate(network, data).loss
    assert [module.training for module in network.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class Flat(nn.Sequential):
    """Lays its maps flat by ``view``, which maps with channels last refuse."""

    def forward(self, images):
        return super().forward(images).view(len(images), -1)[:, :6]


@pytest.mark.parametrize("kind", [nn.Sequential, Flat])
def test_half_precision_measures_nearly_the_same_and_leaves_the_network_alone(kind):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    model = kind(*layers, *(() if kind is Flat else (nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    data = [(torch.randn(n, 3, 4, 4), torch.randint(0, 6, (n,))) for n in (1, 40, 9)]
    strides = model[0].weight.stride()
    exact, half = evaluate(model, data), evaluate(model, data, half=True)
    assert half.loss == pytest.approx(exact.loss, rel=2e-2)
    assert half.loss != exact.loss
    assert abs(half.accuracy - exact.accuracy) <= 8
    assert model.training
    assert model[0].weight.stride() == strides
    assert model[0].weight.dtype == torch.float32
    with pytest.raises(InputError, match="cannot read images"):
        evaluate(model, [(torch.zeros(2, 1, 4, 4), torch.zeros(2).long())], half=True)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "the loader is empty"),
        ([torch.zeros(2, 1, 2, 3)], "pair of tensors"),
        ([(torch.zeros(2, 6), torch.zeros(2).long())], "images and"),
        ([(torch.zeros(2, 1, 2, 3), torch.zeros(3).long())], "labels"),
        ([(torch.zeros(2, 1, 2, 3), torch.tensor([0, 6]))], "label 6 is out of range: the network has classes 0 to 5"),
        ([(torch.zeros(2, 1, 2, 3), torch.tensor([-1, 0]))], "label -1 is out of range"),
        ([(torch.full((2, 1, 2, 3), torch.nan), torch.zeros(2).long())], "not finite"),
    ],
)
def test_unusable_batches_are_refused(data, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluate(Echo(), data)


def test_images_of_another_shape_are_refused_with_the_shape():
    with pytest.raises(InputError, match=r"cannot read images of shape \(1, 4, 4\)"):
        evaluate(nn.Conv2d(3, 4, 1), [(torch.zeros(2, 1, 4, 4), torch.zeros(2).long())])


def test_a_network_without_class_logits_is_refused():
    with pytest.raises(InputError, match=r"\(n, classes\) logits"):
        evaluate(nn.Conv2d(1, 4, 1), [(torch.zeros(2, 1, 4, 4), torch.zeros(2).long())])


def test_large_images_are_measured_in_parts_and_the_figures_are_the_same(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    data = [(torch.randn(30, 3, 16, 16), torch.arange(30) % 5)]
    whole = evaluate(network, data)
    sizes = []
    network[0].register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    monkeypatch.setattr("infoprune.data.batches._VALUES_AT_A_TIME", 3 * 16 * 16 * 7)
    parts = evaluate(network, data)
    assert sizes == [7, 7, 7, 7, 2]
    assert (parts.accuracy, parts.top5, parts.images) == (whole.accuracy, whole.top5, whole.images)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
