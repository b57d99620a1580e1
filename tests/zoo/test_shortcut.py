import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from infoprune.zoo.shortcut import ZeroPadShortcut


@pytest.mark.parametrize(("channels", "size"), [(16, 32), (32, 16), (4, 7)])
def test_uncut_equals_the_padding_of_the_paper_bit_for_bit(channels, size):
    x = torch.randn(3, channels, size, size)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels // 2, channels // 2))
    assert torch.equal(ZeroPadShortcut(channels, 2 * channels, 2)(x), expected)


def test_it_adds_nothing_to_the_state_dict_and_has_no_parameters():
    shortcut = ZeroPadShortcut(4, 8, 2)
    assert not shortcut.state_dict()
    assert not list(shortcut.parameters())


@given(st.sets(st.integers(0, 5), max_size=5), st.sets(st.integers(0, 11), max_size=11), st.booleans())
def test_cut_on_both_sides_equals_the_uncut_one_with_those_channels_zero(inputs, outputs, inputs_first):
    whole = ZeroPadShortcut(6, 12, 2)
    cut = copy.deepcopy(whole)
    steps = [lambda: cut.remove_inputs(inputs), lambda: cut.remove_outputs(outputs)]
    for step in steps if inputs_first else reversed(steps):
        step()
    x = torch.randn(2, 6, 5, 5)
    kept_in = [i for i in range(6) if i not in inputs]
    kept_out = [i for i in range(12) if i not in outputs]
    masked = torch.zeros_like(x)
    masked[:, kept_in] = x[:, kept_in]
    assert torch.equal(cut(x[:, kept_in]), whole(masked)[:, kept_out])
    assert (cut.in_channels, cut.out_channels) == (len(kept_in), len(kept_out))


def test_the_convolution_form_computes_the_same_after_a_cut():
    shortcut = ZeroPadShortcut(6, 12, 2)
    shortcut.remove_inputs([0, 4])
    shortcut.remove_outputs([3, 5, 11])
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(shortcut.as_convolution()(x), shortcut(x))


def test_it_exports_and_passes_gradients():
    shortcut = ZeroPadShortcut(4, 8, 2)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    exported = torch.export.export(shortcut, (x.detach(),)).module()
    assert torch.equal(exported(x.detach()), shortcut(x))
    shortcut(x).sum().backward()
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


def test_widths_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="from 8 to 4"):
        ZeroPadShortcut(8, 4)
