"""Networks that cannot be cut as they are."""

import plans
import pytest
import torch
import toys
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.intake import check_network
from infoprune.network.surgery import apply

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


def compiled_in_place():
    model = toys.Plain()
    model.compile(backend="eager")
    return model


def prepared():
    from torch.ao import quantization

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    return quantization.prepare_qat(model)


def by_fabric():
    from lightning_fabric.wrappers import _FabricModule

    return _FabricModule(toys.Plain(), strategy=None)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.DataParallel(toys.Plain()), r"pass model\.module, and wrap the result"),
        (by_fabric, r"pass model\.module, and wrap the result"),
        (lambda: nn.Sequential(nn.DataParallel(toys.Plain())), r"DataParallel .*\(submodule '0'\)"),
        (lambda: torch.compile(toys.Plain()), "a compiled network cannot be cut"),
        (compiled_in_place, "a compiled network cannot be cut"),
        (lambda: nn.Sequential(compiled_in_place()), "a compiled network cannot be cut"),
        (lambda: torch.jit.script(toys.Plain()), "a scripted or traced network cannot be cut"),
        (prepared, "prune first, then prepare"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "run one batch through it first"),
        (lambda: "resnet18", "must be a torch.nn.Module, not str"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_it_says_which_network_to_give_instead(build, words):
    model = build()
    with pytest.raises(InputError, match=words):
        check_network(model)
    with pytest.raises(InputError, match=words):
        infoprune.prune(model, [EXAMPLE], criterion="l1", ratio=0.5)


def test_a_forward_that_holds_on_to_the_given_network_is_the_reason():
    model = toys.Plain()
    model.forward = lambda x: model.fc(model.conv2(model.conv1(x)).mean((2, 3)))
    with pytest.raises(InputError, match="runs layer 'conv1.0' of the original where a copy is called"):
        find_groups(model, EXAMPLE)


def test_a_trainer_is_not_copied():
    class Trainer:
        def __deepcopy__(self, memo):
            raise AssertionError("a trainer was copied")

    model = toys.Plain()
    vars(model)["_trainer"] = Trainer()
    small = apply(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 5)), model, EXAMPLE)
    assert vars(small)["_trainer"] is None
    assert isinstance(vars(model)["_trainer"], Trainer)


def test_a_network_on_several_devices_is_refused():
    model = toys.Plain()
    next(model.children()).to("meta")
    with pytest.raises(InputError, match=r"lies on several devices, cpu and meta: move it to one"):
        check_network(model)
