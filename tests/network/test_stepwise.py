"""Forward passes that wait at a layer, and their feature maps in files."""

import threading

import pytest
import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.network import spill as spill_module
from infoprune.network.layer_io import read_all
from infoprune.network.spill import Spill
from infoprune.network.stepwise import ForwardPasses
from infoprune.repair.least_squares import least_squares
from nets import Residual, Separable, images, pair_of, quiet


@pytest.mark.parametrize("memory", [0, 1 << 30])
@pytest.mark.parametrize("network", [Residual, Separable])
def test_a_change_behind_the_layer_reached_counts_from_there_on(network, memory, monkeypatch):
    monkeypatch.setattr(spill_module, "_SMALLEST", 0)
    torch.manual_seed(0)
    model, batches = network().eval(), images(9, 8, 3)
    layers = list(read_all(model, [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)], batches[0]))
    with torch.no_grad(), Spill(memory) as spill, ForwardPasses(model, layers, batches, spill, refitted=True) as passes:
        for layer in layers:
            fed = []
            for number in range(3):
                fed.append(passes.advance(number, layer).inputs.clone())
                passes.put_away(number)
            model.get_submodule(layer).weight.mul_(0.9).add_(0.01)
        wanted = read_all(model, [layers[-1]], torch.cat(batches))[layers[-1]].inputs
    torch.testing.assert_close(torch.cat(fed), wanted, rtol=1e-4, atol=1e-5)


def test_files_change_nothing(monkeypatch):
    monkeypatch.setattr(spill_module, "_SMALLEST", 0)
    pair = pair_of(Residual(), images(), {"inner1.0": range(5)})
    found, spilled = least_squares(pair, quiet), least_squares(pair, quiet, memory=0)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), spilled.parameters(), strict=True))


def test_no_thread_is_left_behind_when_something_fails():
    class Odd(Residual):
        def forward(self, x):
            if x.sum() > 0:
                raise InputError("such images are not for this network")
            return super().forward(x)

    model = Odd().eval()
    before = threading.active_count()
    batches = [-torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8)]
    with Spill(0) as spill, ForwardPasses(model, ["stem.0"], batches, spill) as passes:
        passes.advance(0, "stem.0")
        with pytest.raises(InputError, match="not for this network"):
            passes.advance(1, "stem.0")
    assert threading.active_count() == before
    assert not any(module._forward_hooks for module in model.modules())


def test_freed_memory_is_returned_when_the_process_has_grown(monkeypatch):
    held, returned = [1000], []

    def give_back():
        returned.append(held[0])
        held[0] = 1100

    monkeypatch.setattr(spill_module, "resident", lambda: held[0])
    monkeypatch.setattr(spill_module, "return_freed", give_back)
    with Spill(900) as spill:
        for size in (1200, 1300, 1301, 1399, 1400, 1401):
            held[0] = size
            spill.put_away("maps", [])
    # When it holds a third of the limit more than at the beginning, or than after the last time.
    assert returned == [1301, 1401]
