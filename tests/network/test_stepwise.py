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


@torch.library.custom_op("infoprune_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    computed_in.add(threading.get_ident())
    if x.shape[0] > 2:
        raise ValueError("no more than two at a time")
    return 2 * x


computed_in: set[int] = set()


class Doubled(Residual):
    def forward(self, x):
        return super().forward(doubled(x))


def test_operations_of_all_passes_run_in_the_thread_that_waits():
    computed_in.clear()
    with Spill(0) as spill, ForwardPasses(Doubled().eval(), ["stem.0"], images(8, 8, 4), spill) as passes:
        for number in range(4):
            passes.advance(number, "stem.0")
    assert computed_in == {threading.get_ident()}


def test_a_network_may_clear_up_when_its_pass_is_closed():
    class Finally(Residual):
        def forward(self, x):
            try:
                return super().forward(x)
            finally:
                cleared.append(float((x * 0).sum()))

    cleared, before = [], threading.active_count()
    with Spill(0) as spill, ForwardPasses(Finally().eval(), ["stem.0"], images(4, 8, 2), spill) as passes:
        passes.advance(0, "stem.0")
        passes.advance(1, "stem.0")
    assert cleared == [0.0, 0.0]
    assert threading.active_count() == before


@pytest.mark.parametrize("computed", range(8))
@pytest.mark.parametrize("answered", [True, False])
def test_an_interruption_at_any_operation_leaves_no_thread_behind(computed, answered, monkeypatch):
    def interrupted(waiting):
        for _ in range(computed):
            waiting._stopped.acquire()
            if waiting._asked is None:
                break
            compute, waiting._asked = waiting._asked, None
            waiting._answer = compute(), None
            waiting._go.release()
        else:
            waiting._stopped.acquire()
            if answered and waiting._asked is not None:
                waiting._answer, waiting._asked = (waiting._asked(), None), None
        raise KeyboardInterrupt

    monkeypatch.setattr("infoprune.network.stepwise._Pass._compute_until_stopped", interrupted)
    before = threading.active_count()
    names = [name for name, module in Residual().named_modules() if isinstance(module, nn.Conv2d)][:2]
    stopped = pytest.raises(KeyboardInterrupt)
    with (
        Spill(0) as spill,
        stopped,
        ForwardPasses(Residual().eval(), names, images(4, 8, 1), spill, refitted=True) as one,
    ):
        one.advance(0, names[0])
    assert threading.active_count() == before


def test_what_the_caller_has_set_in_its_thread_does_not_count():
    model, some = Residual().eval(), images(4, 8, 1)
    with Spill(0) as spill, ForwardPasses(model, ["stem.0"], some, spill) as passes:
        wanted = passes.advance(0, "stem.0").result.clone()
    half = torch.autocast("cpu", torch.bfloat16)
    with torch.inference_mode(), half, Spill(0) as spill, ForwardPasses(model, ["stem.0"], some, spill) as passes:
        found = passes.advance(0, "stem.0").result
    assert torch.equal(found, wanted)
    assert not found.is_inference()


def test_an_error_of_an_operation_is_raised_where_the_network_runs():
    class Caught(Doubled):
        def forward(self, x):
            try:
                return super().forward(x)
            except ValueError:
                return Residual.forward(self, x[:2])

    batches = images(3, 8, 1)
    with Spill(0) as spill, ForwardPasses(Caught().eval(), ["stem.0"], batches, spill) as passes:
        assert len(passes.advance(0, "stem.0").inputs) == 2
    refused = pytest.raises(ValueError, match="no more than two")
    with Spill(0) as spill, ForwardPasses(Doubled().eval(), ["stem.0"], batches, spill) as passes, refused:
        passes.advance(0, "stem.0")


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
    gib = 1 << 30
    held, returned = [1000], []

    def give_back():
        returned.append(held[0])
        held[0] = 1100 + gib

    monkeypatch.setattr(spill_module, "resident", lambda: held[0])
    monkeypatch.setattr(spill_module, "return_freed", give_back)
    with Spill(900) as spill:
        for size in (1301, 1000 + gib, 1001 + gib, 1399 + gib, 1400 + gib, 1401 + gib):
            held[0] = size
            spill.put_away("maps", [])
    # When it holds 1 GiB more than at the beginning, and a third of the limit more than after the last time.
    assert returned == [1001 + gib, 1401 + gib]
