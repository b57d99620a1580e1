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


class Hooked(nn.Module):
    """Reads in its last layer what a hook has kept of its first."""

    def __init__(self, hook):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.kept = kept = {}
        self.first.register_forward_hook(self.keep if hook == "method" else lambda *call: kept.update(first=call[2]))

    def keep(self, module, inputs, output):
        self.kept["first"] = output

    def forward(self, x):
        y = self.last(self.first(x).relu())
        return (y + self.kept["first"]).mean((2, 3))


def test_a_hook_that_writes_into_a_variable_is_refused_and_a_method_is_not():
    torch.manual_seed(0)
    found = find_groups(Hooked("method"), EXAMPLE)
    assert not found.groups  # its filters are the outputs, or read beside them
    model = Hooked("variable")
    model(EXAMPLE)
    with pytest.raises(InputError, match="its hooks keep values in a variable outside of it"):
        find_groups(model, EXAMPLE)


def test_a_hook_whose_values_nobody_reads_is_no_obstacle():
    model, found = toys.Plain(), {}
    model.conv1.register_forward_hook(lambda *call: found.update(first=call[2]))
    assert find_groups(model, EXAMPLE).groups
