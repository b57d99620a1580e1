"""Blocks are found by running them, and the network without them is the network with silent branches."""

import pytest
import torch
from deep_networks import Halved, Plain, Projected, Scaled, Tower, images, lively
from torch import nn

import infoprune
from infoprune import zoo
from infoprune.depth import Block, find_blocks, prune_blocks, remove_blocks
from infoprune.depth.blocks import silenced
from infoprune.errors import InputError
from infoprune.network.cost import count
from infoprune.network.coupled_groups import find_groups
from infoprune.network.origin import blocks_of, origin_of, set_origin
from infoprune.network.stand_ins import remove_named
from infoprune.network.verify import VerificationError


def names(model, size=8):
    return {block.name: (block.activation, block.end) for block in find_blocks(model, images(2, size))}


def test_a_block_is_what_passes_its_input_on_without_weights():
    model = Tower(Plain(6), Plain(6, "before"), Scaled(6), Projected(6), Halved(6), nn.Conv2d(6, 6, 1))
    # After the first block without a ReLU the input of the next may be negative.
    assert names(lively(model)) == {
        "stage.0": ("", "stage.0.norm2"),
        "stage.1": ("", "stage.1.norm2"),
        "stage.2": ("", ""),
    }


def test_a_relu_stays_where_the_input_may_be_negative():
    for positive, activation in ((True, ""), (False, "ReLU")):
        found = find_blocks(lively(Tower(Plain(6), Plain(6), positive=positive)), images(2))
        assert [block.activation for block in found] == [activation, ""]


@pytest.mark.parametrize("activation", ["ReLU6", "SiLU", "GELU", "Hardswish"])
def test_other_activations_stay(activation):
    class Own(Plain):
        def forward(self, x):
            y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
            return getattr(nn, activation)()(x + y)

    model = lively(Tower(Own(6), Own(6)))
    found = find_blocks(model, images(2))
    assert [block.activation for block in found] == [activation] * 2
    small = remove_blocks(model, found, images(2))
    assert type(small.stage[0]).__name__ == activation


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [("resnet20", 32, 7), ("resnet20_b", 32, 7), ("mobilenet_v2", 32, 10), ("vgg16", 32, 0), ("lenet5", 28, 0)],
)
def test_the_blocks_of_the_zoo(network, size, expected):
    model = lively(zoo.build(network))
    example = torch.randn(2, next(model.parameters()).shape[1], size, size)
    found = find_blocks(model, example)
    assert len(found) == expected
    assert all(block.end for block in found)
    assert [block.name for block in found] == [name for name, _ in model.named_modules() if name in
                                               {block.name for block in found}]  # fmt: skip


def test_without_some_blocks_it_is_the_network_with_these_branches_at_zero():
    model = lively(zoo.build("resnet20"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    example = torch.randn(4, 3, 32, 32)
    blocks = find_blocks(model, example[:2])
    for some in (blocks[:1], blocks[::2], blocks):
        small = remove_blocks(model, some, example)
        # Masked by hand: the result of the last norm of each branch is zero.
        hooks = [model.get_submodule(block.end).register_forward_hook(lambda m, i, output: torch.zeros_like(output))
                 for block in some]  # fmt: skip
        wanted = model(example)
        for hook in hooks:
            hook.remove()
        assert torch.equal(small(example), wanted)
        whole, left = count(model, example), count(small, example)
        assert whole.macs - left.macs == sum(block.macs for block in some)
        assert whole.parameters - left.parameters == sum(block.parameters for block in some)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_left_is_an_ordinary_network():
    model = lively(zoo.build("resnet20"))
    example = torch.randn(2, 3, 32, 32)
    small = remove_blocks(model, find_blocks(model, example)[1:4], example).train()
    small(example).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert find_groups(small.eval(), example).groups
    assert not set(small.state_dict()) - set(model.state_dict())


def test_blocks_that_the_network_does_not_have_are_refused():
    model = lively(Tower(Plain(6), Plain(6)))
    blocks = find_blocks(model, images(2))
    small = remove_blocks(model, blocks[:1], images(2))
    with pytest.raises(InputError, match="the network has no block 'stage.0' of class Plain"):
        remove_blocks(small, blocks[:1], images(2))
    with pytest.raises(InputError, match="no block 'layer9'"):
        remove_blocks(model, [Block("layer9", "Plain", "", "", 0, 0)], images(2))


def test_what_is_no_block_is_found_out():
    model = lively(Tower(Plain(6), Projected(6)))
    with pytest.raises(VerificationError, match="without stage.1 differs"):
        remove_blocks(model, [Block("stage.1", "Projected", "", "", 0, 0)], images(2))


def test_a_network_that_reads_more_of_a_block_than_its_output_keeps_it():
    class Reading(Tower):
        def forward(self, x):
            return super().forward(x) + self.stage[0].norm2.weight.sum()

    assert "stage.0" not in names(lively(Reading(Plain(6), Plain(6))))


def test_weights_are_zero_only_for_a_while():
    block = lively(Plain(6))
    x, before = images(2)[:, :1].expand(-1, 6, -1, -1), None
    before = block(x)
    with silenced(block):
        assert torch.equal(block(x), torch.relu(x))
    assert torch.equal(block(x), before)


def test_blocks_are_removed_down_to_a_share_or_a_number():
    model = lively(zoo.build("resnet20"))
    batches = [torch.randn(8, 3, 32, 32) for _ in range(2)]
    some = prune_blocks(model, batches, count=2, criterion="cka")
    # The least first; of equal ones the last block.
    order = sorted(some.scores, key=lambda name: (some.scores[name], -list(some.scores).index(name)))
    assert some.removed == tuple(order[:2])
    assert prune_blocks(model, batches, count=0).macs == 1
    for share in (0.8, 0.5):
        found = prune_blocks(model, batches, macs=share, criterion="cka")
        assert found.macs <= share
        assert found.macs == pytest.approx(count(found.model, batches[0]).macs / count(model, batches[0]).macs)
        names_left = {block.name: block for block in find_blocks(model, batches[0])}
        assert found.macs + names_left[found.removed[-1]].macs / count(model, batches[0]).macs > share


def test_wrong_words_are_refused():
    model = lively(Tower(Plain(6), Plain(6)))
    for words, message in (
        ({}, "by one of count and macs"),
        ({"count": 1, "macs": 0.5}, "by one of count and macs"),
        ({"count": 3}, "the network has 2 blocks that can be removed, not 3"),
        ({"macs": 0.001}, "macs is the share of the multiply-adds that is left, from 0."),
        ({"count": 1, "criterion": "ckaa"}, "did you mean 'cka'"),
        ({"count": 1, "options": {"steps": 2}}, "unknown option of the criterion of blocks 'divergence' 'steps'"),
    ):
        with pytest.raises(InputError, match=message):
            prune_blocks(model, [images()], **words)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="does not run on an example of shape"):
        find_blocks(Tower(Plain(6)), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("first", ["blocks", "filters"])
def test_a_checkpoint_knows_which_blocks_are_gone(first, tmp_path):
    model = lively(load_listed("resnet20"))
    images = [torch.randn(8, 3, 32, 32) for _ in range(2)]

    def without_blocks(network):
        return prune_blocks(network, images, count=2, criterion="cka").model

    def without_filters(network):
        return infoprune.prune(network, images, criterion="l1", ratio=0.25, repair=None).model

    steps = [without_blocks, without_filters]
    for step in steps if first == "blocks" else steps[::-1]:
        model = step(model)
    again = infoprune.prune(model, images, criterion="l1", ratio=0.1, repair=None).model
    for number, network in enumerate((model, again)):
        file = tmp_path / f"{number}.safetensors"
        infoprune.save(network, file)
        found = infoprune.load(file)
        assert torch.equal(found(images[0]), network.eval()(images[0]))
        assert len(origin_of(found).blocks) == 2
        assert blocks_of(found) == blocks_of(network)


def test_blocks_of_an_own_network_are_stored(tmp_path):
    model = lively(Tower(Plain(6), Plain(6), positive=False))
    small = remove_blocks(model, find_blocks(model, images(2)), images(2))
    file = tmp_path / "own.safetensors"
    infoprune.save(small, file, origin=infoprune.Origin("own", (3, 8, 8)))
    found = infoprune.load(file, build=lambda: Tower(Plain(6), Plain(6), positive=False))
    assert isinstance(found.stage[0], nn.ReLU)
    assert torch.equal(found(images(4)), small(images(4)))


def test_what_a_file_names_in_the_place_of_a_block_is_one_of_a_few():
    model = Tower(Plain(6))
    with pytest.raises(InputError, match="unknown activation in the place of a block 'Linear'"):
        remove_named(model, {"stage.0": "Linear"})
    with pytest.raises(InputError, match="no block 'stage.7', which is noted as removed"):
        remove_named(model, {"stage.7": ""})


def load_listed(name):
    return set_origin(zoo.build(name), infoprune.Origin(name, (3, 32, 32)))
