"""Products of shifted maps are those of the patches themselves, borders included."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.network.layer_io import Window
from infoprune.regression import shifted
from infoprune.regression.layer_fit import Targets, add_positions
from infoprune.regression.normal_equations import NormalEquations
from infoprune.regression.patches import patches
from infoprune.regression.products import Products

PARTS = ("gram", "cross", "features", "targets", "squares")


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 3))
    per_axis = [
        (draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 5)))
        for _ in range(axes)
    ]
    kernel, padding, dilation, size = zip(*per_axis, strict=True)
    window = Window(kernel, (1,) * axes, padding, dilation, groups=1)
    return window, size, draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(0, 10_000))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_any_window_on_maps_of_any_size(case):
    window, size, channels, outputs, seed = case
    if min(window.outputs(size)) < 1:
        return
    drawn = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, channels, *size, generator=drawn, dtype=torch.float64) + 2
    targets = torch.randn(3, outputs, *window.outputs(size), generator=drawn, dtype=torch.float64)
    about, middle = torch.randn(channels, generator=drawn).double(), torch.randn(outputs, generator=drawn).double()
    found = NormalEquations.of(torch.zeros(1, channels * len(patches(window, maps)[0]) // channels, outputs))
    products = shifted.ShiftedProducts(window, (channels, *size), outputs, maps.device)
    space = (-1, *[1] * len(size))
    for part in (slice(0, 1), slice(1, 3)):
        products.add(maps[part] - about.reshape(space), targets[part] - middle.reshape(space))
    products.add_to(found, about, middle)
    wanted = NormalEquations.of(torch.zeros(1, found.gram.shape[1], outputs))
    wanted.add(patches(window, maps), targets.transpose(0, 1).flatten(1)[None])
    assert found.count == wanted.count
    for part in PARTS:
        torch.testing.assert_close(getattr(found, part), getattr(wanted, part), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("outputs", [0, 5])
def test_equations_are_as_exact_as_products_of_patches(monkeypatch, outputs):
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), groups=1)
    drawn = torch.Generator().manual_seed(0)
    maps = torch.randn(60, 20, 4, 4, generator=drawn) * torch.rand(20, 1, 1, generator=drawn) + 30
    targets = Targets([(torch.randn(60, 5, 4, 4, generator=drawn) + 7, 1, None)], linear=False) if outputs else None

    def equations(maps, shift):
        monkeypatch.setattr("infoprune.regression.layer_fit.can_be_shifted", lambda window: shift)
        products = Products(1, 180, outputs)
        for some in torch.arange(60).split(25):
            add_positions(products, window, maps, targets, some, torch.Generator())
        return products.equations()

    exact = NormalEquations.of(torch.zeros(1, 180, outputs))
    wanted = torch.zeros(1, 0, 960) if targets is None else targets.at(None, torch.arange(60))[None]
    exact.add(patches(window, maps), wanted)
    quick, slow = equations(maps, True), equations(maps, False)
    variance = exact.moments(centred=True).diagonal(dim1=1, dim2=2).mean()

    def error(found):
        return float((found.moments(centred=True) - exact.moments(centred=True)).abs().max() / variance)

    assert quick.count == slow.count == exact.count == 960
    assert error(quick) <= 2 * error(slow) + 1e-6
    for part in PARTS:
        torch.testing.assert_close(getattr(quick, part), getattr(exact, part), rtol=1e-5, atol=1e-2)
    # Patches hold the padding as minus the mean, here of 30.
    assert 0 < quick.noise < slow.noise


def test_pairs_of_taps_that_see_the_same_are_multiplied_once():
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), groups=1)
    products = shifted.ShiftedProducts(window, (2, 8, 8), 0, torch.device("cpu"))
    assert len(products.pairs) == 81
    assert len(products.wanted) == 29
    # Together they are as large as one product of whole maps for each distance.
    distances = {tuple(delta for _, _, delta in part) for part in products.wanted}
    whole = sum((8 - abs(down)) * (8 - abs(right)) for down, right in distances)
    assert len(distances) == 13
    assert sum(prod(length for _, length, _ in part) for part in products.wanted) == whole
