"""One process or several: the same scores, plans and weights, bit for bit, with uneven and with empty shares."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import infoprune
from infoprune import criteria, zoo
from infoprune.criteria.scoring import score
from infoprune.measure.accuracy import evaluate
from infoprune.measure.divergence import divergence_between
from infoprune.network.coupled_groups import find_groups
from infoprune.progress import silent
from infoprune.repair.base import Pair
from infoprune.repair.batch_norm import reestimate
from infoprune.repair.distil import distil

from .launch import bits, digest, launched

# Batches of 12 images, the last one of 5: two processes have uneven shares, and the third has none of two batches.
SIZES = {"uneven": (12, 12, 12, 12, 5), "empty last share": (12, 5)}


def images(sizes, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, 1, 8, 8, generator=drawn), torch.arange(size) % 10 if size > 1 else torch.zeros(1))
        for size in sizes
    ]


def network():
    torch.manual_seed(0)
    return zoo.build("digits").eval()


def scores(name, sizes):
    model = network()
    groups = find_groups(model, torch.zeros(2, 1, 8, 8)).groups
    options = {"batch": 10} if name == "hrel" else {}
    found = score(model, groups, images(sizes), criteria.find(name), options=options)
    return {group: (one.scores.tolist(), one.order, bits(one.evidence)) for group, one in found.items()}


def all_scores(names, sizes):
    return {name: scores(name, sizes) for name in names}


@pytest.mark.parametrize(("processes", "sizes"), [(2, "uneven"), (3, "empty last share")])
def test_every_criterion_scores_alike(processes, sizes):
    # Other criteria of networks are computed whole by every process.
    shared = ("reconstruction", "entropic", "taylor", "fisher", "lrp")
    names = [info.name for info in criteria.all_criteria() if info.kind == "maps" or info.name in shared]
    several, one = launched(processes, all_scores, names, SIZES[sizes]), digest(all_scores(names, SIZES[sizes]))
    assert [name for name in names if several[name] != one[name]] == []


def pruned(repair, sizes, criterion, reselect):
    model, batches = network(), images(sizes)
    found = infoprune.prune(model, batches, criterion=criterion, macs=0.5, repair=repair, reselect=reselect)
    decided = {name: (one.kept, one.scores, one.order) for name, one in found.plan.decisions.items()}
    return decided, bits(found.model.state_dict())


@pytest.mark.parametrize(
    ("repair", "sizes", "criterion", "reselect"),
    [
        ("least-squares", SIZES["uneven"], "reconstruction", False),
        ("least-squares", SIZES["empty last share"], "cmi", False),
        ("bn", SIZES["uneven"], "l1", False),
        ("bn", SIZES["empty last share"], "l1", False),
        ("all", SIZES["uneven"], "l1", True),
        ("alternating", SIZES["uneven"], "l1", False),
    ],
)
def test_a_network_is_pruned_and_repaired_alike(repair, sizes, criterion, reselect):
    one = digest(pruned(repair, sizes, criterion, reselect))
    for processes in (2, 3):
        assert launched(processes, pruned, repair, sizes, criterion, reselect) == one


class Twice(torch.nn.Module):
    """One encoder for an image and its mirror image."""

    def __init__(self):
        super().__init__()
        self.encoder = zoo.build("digits").features
        self.head = torch.nn.LazyLinear(10)

    def forward(self, x):
        return self.head(torch.cat([self.encoder(x).flatten(1), self.encoder(x.flip(3)).flatten(1)], dim=1))


def repaired_twice(sizes):
    torch.manual_seed(0)
    model, batches = Twice().eval(), images(sizes)
    model(batches[0][0])
    found = infoprune.prune(model, batches, criterion="l1", macs=0.5, repair="least-squares")
    return bits(found.model.state_dict())


def test_a_layer_that_runs_twice_is_repaired_alike():
    for processes, sizes in ((2, SIZES["uneven"]), (3, SIZES["empty last share"])):
        assert launched(processes, repaired_twice, sizes) == digest(repaired_twice(sizes))


def chosen_by_itself():
    found = infoprune.prune(network(), images((12,) * 4), macs=0.6)
    return dict(found.plan.kept), bits(found.model.state_dict()), found.automatic


def test_what_one_line_chooses_is_the_same():
    assert launched(2, chosen_by_itself) == digest(chosen_by_itself())


def measured(sizes):
    model, other, batches = network(), zoo.build("digits").eval(), images(sizes)
    found = evaluate(model, batches)
    apart = divergence_between(model, reestimate(other, batches), [some for some, _ in batches])
    return found.accuracy, found.top5, found.loss, found.images, apart


def test_a_network_is_measured_alike():
    for sizes in SIZES.values():
        one = measured(sizes)
        assert one[3] == sum(sizes)
        assert launched(2, measured, sizes) == launched(3, measured, sizes) == digest(one)


class Stream(IterableDataset):
    """Images that can only be read one after the other."""

    def __iter__(self):
        drawn = torch.Generator().manual_seed(0)
        for number in range(41):
            yield torch.rand(1, 8, 8, generator=drawn), number % 10


def of_loader(form):
    data = list(Stream())
    torch.manual_seed(3)
    loaders = {
        "in order": lambda: DataLoader(data, batch_size=8),
        "shuffled": lambda: DataLoader(data, batch_size=8, shuffle=True),
        "stream": lambda: DataLoader(Stream(), batch_size=8),
    }
    model, loader = network(), loaders[form]()
    torch.manual_seed(4)
    return [
        pruned.kept
        for pruned in (infoprune.plan(model, loader, criterion=name, macs=0.5) for name in ("cmi", "reconstruction"))
    ]


@pytest.mark.parametrize("form", ["in order", "shuffled", "stream"])
def test_a_loader_of_any_form_is_shared(form):
    assert launched(2, of_loader, form) == digest(of_loader(form))


def distilled():
    model, batches = network(), images((20,) * 6 + (1,))
    plan = infoprune.plan(model, batches, criterion="l1", macs=0.5)
    pair = Pair.of(model, plan, batches)
    # From the network as cut, which least squares would repair almost completely.
    better = distil(pair, silent, start=pair.small, epochs=3)
    held_out = [some for some, _ in images((40,), seed=1)]
    return better.state_dict(), [divergence_between(model, one, held_out).value for one in (pair.small, better)]


def distilled_bits():
    weights, apart = distilled()
    return bits(weights), apart


def distance_of(wanted):
    """How far the weights of several processes are from those of one, and the larger of the two divergences."""
    weights, apart = distilled()
    away = max(
        float((weights[name] - value).abs().max() / value.abs().max().clamp_min(1e-12))
        for name, value in wanted[0].items()
    )
    return [away < 0.02, apart[1] < 1.01 * wanted[1][1], apart[1] < apart[0]]


def test_distillation_by_several_processes_is_that_of_one_within_its_documented_difference():
    one = distilled()
    assert launched(2, distance_of, one) == launched(3, distance_of, one) == digest([True, True, True])
    assert launched(2, distilled_bits) == launched(2, distilled_bits)
