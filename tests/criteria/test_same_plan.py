"""The same filters are kept however filters are permuted, batches split, threads counted and instructions chosen."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import IMAGES, layer, scored

from infoprune import criteria
from infoprune.criteria import Filters

HERE = Path(__file__).resolve()
NAMES = [info.name for info in criteria.all_criteria() if not info.score_network]
RANKING = [name for name in NAMES if name != "random"]
READING = [name for name in NAMES if criteria.find(name).needs_maps]
# Those that remove one filter of a pair: which of several pairs of copies is first follows the index.
BY_PAIRS = ("apssf", "coring", "fsim", "hashing", "phash", "prf", "qsfm")
# Those that score each filter by itself: the others and the greedy order rank a copy lower on purpose.
BY_ITSELF = [name for name in RANKING if not name.startswith(BY_PAIRS) and name != "cmi"]
# Those that count: filters of equal counts tie, copies or not, and which of them is kept follows the index.
COUNTING = ("apoz", "entropy")
SETTINGS = [
    {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
]

# Threads that wait without spinning: on a busy machine two would otherwise take many times as long as one.
PATIENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}


def sizes_between(cuts):
    edges = [0, *sorted(set(cuts)), IMAGES]
    return [b - a for a, b in itertools.pairwise(edges)]


splits = st.lists(st.integers(1, IMAGES - 1), max_size=5).map(sizes_between)


def permuted(filters, order):
    return Filters(tuple(w[order] for w in filters.weights), tuple(s[order] for s in filters.scales), filters.name)


@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_copies_tie_and_the_lowest_index_is_kept(name, seed):
    maps, labels, filters, of = layer(seed)
    found = scored(name, maps, labels, filters)
    for filter_ in of.unique():
        members = (of == filter_).nonzero().flatten().tolist()
        places = [found.order.index(i) for i in members]
        assert places == sorted(places)
        if name in BY_ITSELF:
            assert len(found.scores[members].unique()) == 1


@pytest.mark.parametrize("name", READING)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_of_copies_that_differ_by_the_rounding_of_maps_the_lowest_index_is_kept(name, seed):
    maps, labels, filters, of = layer(seed)
    up = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    maps = torch.where(up & (maps > 0), torch.nextafter(maps, torch.tensor(torch.inf)), maps)
    order = scored(name, maps, labels, filters).order
    for filter_ in of.unique():
        places = [order.index(i) for i in (of == filter_).nonzero().flatten().tolist()]
        assert places == sorted(places)


@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), kept=st.integers(1, 20))
def test_wherever_filters_lie_the_same_ones_are_kept(name, seed, kept):
    maps, labels, filters, of = layer(seed)
    order = torch.randperm(len(of), generator=torch.Generator().manual_seed(seed))
    plain = scored(name, maps, labels, filters)
    moved = scored(name, maps[:, order], labels, permuted(filters, order))
    if name.startswith(BY_PAIRS):
        # All pairs of copies are equally alike: of which pair one is removed first follows the index.
        kept = min(kept, len(of.unique()))
    if name in COUNTING:
        assert moved.scores[list(moved.order[:kept])].tolist() == plain.scores[list(plain.order[:kept])].tolist()
        return
    # Which of two copies is kept follows the index; that one of them is kept does not.
    assert sorted(of[order][list(moved.order[:kept])].tolist()) == sorted(of[list(plain.order[:kept])].tolist())


@pytest.mark.parametrize("name", READING)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), sizes=splits)
def test_however_images_are_split_the_order_is_the_same(name, seed, sizes):
    maps, labels, filters, _ = layer(seed)
    assert scored(name, maps, labels, filters, sizes).order == scored(name, maps, labels, filters).order


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_changes_no_order(name):
    maps, labels, filters, _ = layer(5, filters=70, size=9)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(scored(name, maps, labels, filters).order)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def orders_under(environment, threads):
    process = subprocess.run(
        [sys.executable, HERE.with_name("orders.py")],
        env={**os.environ, **environment, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **PATIENT},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def plain_orders():
    return orders_under({}, 1)


@pytest.mark.parametrize(("environment", "threads"), [(SETTINGS[0], 1), (SETTINGS[1], 2)], ids=["sse", "avx2"])
def test_other_instructions_make_the_same_plans(environment, threads, plain_orders):
    found = orders_under(environment, threads)
    assert set(found["layers"]) == set(NAMES)
    assert set(found["network"]) >= {*NAMES, "reconstruction"}
    for name, orders in found["layers"].items():
        assert orders == plain_orders["layers"][name], name
    for name, kept in found["network"].items():
        assert kept == plain_orders["network"][name], name
