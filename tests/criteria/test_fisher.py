"""Group Fisher scores, by hand and by automatic differentiation of each image."""

import pytest
import torch
from torch.nn import functional as F

from infoprune import zoo
from infoprune.criteria import find
from infoprune.criteria.fisher import group_fisher
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Residual, Separable

IMAGES = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 4


def scored(model, sizes=(10,), **options):
    data = list(zip(IMAGES.split(list(sizes)), LABELS.split(list(sizes)), strict=True))
    return score(model, find_groups(model, IMAGES[:2]).groups, data, find("fisher"), options=options)


def column(*values):
    return torch.tensor(values)[:, None]


def test_the_gradients_of_readers_are_added_before_they_are_squared():
    a, b = column(1.0, -2.0), column(-1.0, -2.0)
    assert group_fisher([a, b]).item() == 16
    assert group_fisher([a]).item() + group_fisher([b]).item() == 10


def test_readers_can_cancel():
    assert group_fisher([column(1.0, -2.0), column(-1.0, 2.0)]).item() == 0


def slow(model, readers):
    """(C,): half the mean over images of the squared sum over readers of x dL/dx at their inputs."""
    total = 0
    for image, label in zip(IMAGES, LABELS, strict=True):
        kept = {}

        def keep(layer, kept=kept):
            def hook(module, inputs):
                kept[layer] = inputs[0].clone()
                return (kept[layer],)

            return hook

        hooks = [model.get_submodule(layer).register_forward_pre_hook(keep(layer)) for layer in readers]
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(kept.values()))
        for one in hooks:
            one.remove()
        parts = [(x * g)[0].double().flatten(1).sum(1) if x.ndim == 4 else (x * g)[0].double()
                 for x, g in zip(kept.values(), gradients, strict=True)]  # fmt: skip
        total = total + torch.stack(parts).sum(0).square() / (2 * len(IMAGES))
    return total


def test_against_each_image_alone():
    model = Residual().eval()
    found = scored(model, normalise="none")
    assert torch.allclose(found["inner1.0"].scores, slow(model, ["outer1"]), rtol=1e-3, atol=1e-10)
    stream = slow(model, ["inner1.0", "inner2.0", "fc"])
    assert torch.allclose(found["stem.0"].scores, stream, rtol=1e-3, atol=1e-10)
    assert found["stem.0"].comparable


def test_memory_is_that_of_the_layers_that_make_the_filter():
    model = Residual().eval()
    plain, divided = scored(model, normalise="none"), scored(model)
    assert torch.allclose(plain["inner1.0"].scores / 64, divided["inner1.0"].scores, rtol=1e-9)
    # The stem and two outer convolutions make the stream.
    assert torch.allclose(plain["stem.0"].scores / (3 * 64), divided["stem.0"].scores, rtol=1e-9)


def test_macs_are_those_of_one_filter():
    model = Residual().eval()
    plain, divided = scored(model, normalise="none"), scored(model, normalise="macs")
    # 6 inputs and 6 readers of 3 x 3 at 64 places.
    assert torch.allclose(plain["inner1.0"].scores / (64 * 9 * 12), divided["inner1.0"].scores, rtol=1e-9)


def test_a_linear_layer_behind_a_flatten_counts_all_features_of_a_channel():
    model = zoo.make("lenet5").eval()
    images = torch.randn(6, 1, 28, 28)
    groups = find_groups(model, images[:2]).groups
    last = groups[1]
    member = next(one for one in last.members if one.side == "in")
    assert len(member.channels[0]) > 1
    found = score(model, groups, [(images, torch.arange(6))], find("fisher"), options={"normalise": "none"})
    assert torch.isfinite(found[last.name].scores).all()


@pytest.mark.parametrize("network", [Residual, Separable])
def test_any_split_into_batches_scores_alike(network):
    model = network().eval()
    whole, split = scored(model), scored(model, (1, 3, 6))
    for name in whole:
        assert torch.allclose(whole[name].scores, split[name].scores, rtol=1e-3, atol=1e-10)


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="'normalise' of the criterion 'fisher' takes one of .* not 'flop'"):
        scored(Residual().eval(), normalise="flop")
    with pytest.raises(InputError, match="unknown option of the criterion 'fisher' 'form'"):
        scored(Residual().eval(), form="gate")
