"""Layers ordered and cut one by one: what each is conditioned on, what decides, and what is never done twice."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import infoprune
from infoprune.criteria.cmi import conditional_mutual_information_order as cmi
from infoprune.errors import InputError
from infoprune.measure.accuracy import class_counts_of, evaluate
from infoprune.network import equivalence, surgery
from infoprune.network.coupled_groups import find_groups
from infoprune.options import chosen
from infoprune.repair import all_repairs, repaired
from infoprune.repair.batch_norm import reestimate
from infoprune.selection import planning
from infoprune.selection.layerwise import choosing, judging
from infoprune.selection.layerwise.judging import Judge
from infoprune.selection.layerwise.maps import LayerMaps
from infoprune.selection.planning import make_plan

QUICK = {"criterion_options": {"alpha": 2.0, "method": "pairs"}}


class Chain(nn.Module):
    """Convolutions with batch norm, the last module listed first."""

    def __init__(self, *widths):
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs
        ]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % 4
    patterns = torch.randn(4, 3, 6, 6, generator=generator)
    pictures = patterns[labels] + 0.7 * torch.randn(64, 3, 6, 6, generator=generator)
    return [(pictures[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]


def trained(images, *widths):
    torch.manual_seed(0)
    model = Chain(*widths)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(8):
        for pictures, labels in images:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(pictures), labels).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture
def two(images):
    return trained(images, 6, 8)


@pytest.fixture
def three(images):
    return trained(images, 6, 8, 6)


def planned(model, images, **words):
    return make_plan(model, images, chosen(**{**QUICK, **words}), held_out=images)


def maps_of(model, images, *names):
    groups = find_groups(model, images[0][0][:2]).groups
    maps = LayerMaps(model, groups, images)
    return [maps.of(name) for name in names], maps.labels


def test_compact_conditioning_is_on_the_kept_maps_of_the_neighbour(three, images):
    found = planned(three, images, ratio=0.5, conditioning="compact")
    (first, second, third), labels = maps_of(three, images, "layers.0.0", "layers.1.0", "layers.2.0")
    kept = found.plan.kept
    options = QUICK["criterion_options"]
    assert found.importances["layers.0.0"].order == cmi(first, labels, **options).order
    after = cmi(second, labels, [first[:, list(kept["layers.0.0"])]], **options)
    last = cmi(third, labels, [second[:, list(kept["layers.1.0"])]], **options)
    assert found.importances["layers.1.0"].order == after.order
    assert found.importances["layers.1.0"].curve == after.curve
    assert found.importances["layers.2.0"].curve == last.curve
    assert float(found.importances["layers.2.0"].evidence["given"]) > 0


def test_full_conditioning_is_on_all_layers_cut_before(three, images):
    found = planned(three, images, ratio=0.5, conditioning="full", direction="backward")
    (first, second, third), labels = maps_of(three, images, "layers.0.0", "layers.1.0", "layers.2.0")
    kept = found.plan.kept
    given = [third[:, list(kept["layers.2.0"])], second[:, list(kept["layers.1.0"])]]
    assert found.importances["layers.0.0"].curve == cmi(first, labels, given, **QUICK["criterion_options"]).curve


def test_without_conditioning_it_is_the_criterion_alone(three, images):
    alone = planned(three, images, criterion="cmi", ratio=0.5)
    for direction in ("forward", "backward", "both"):
        one = planned(three, images, cutoff="grid", cutoff_options={"steps": 2}, direction=direction)
        assert {name: found.order for name, found in one.importances.items()} == {
            name: found.order for name, found in alone.importances.items()
        }


@pytest.mark.parametrize("conditioning", ["compact", "full", "all"])
def test_from_an_end_both_directions_are_one(two, images, conditioning):
    names = ["layers.0.0", "layers.1.0"]
    for start, direction in ((0, "forward"), (1, "backward")):
        keep = {name: (2 if name == names[start] else 5) for name in names}
        words = {"keep": keep, "conditioning": conditioning}
        both = planned(two, images, direction="both", **words)
        one = planned(two, images, direction=direction, **words)
        assert both.plan.kept == one.plan.kept
        assert [f.curve for f in both.importances.values()] == [f.curve for f in one.importances.values()]


def test_both_starts_where_most_would_go_and_branches_see_their_own_side(three, images):
    keep = {"layers.0.0": 4, "layers.1.0": 2, "layers.2.0": 4}
    both = planned(three, images, keep=keep, conditioning="full", direction="both")
    (first, second, third), labels = maps_of(three, images, *keep)
    middle = second[:, list(both.plan.kept["layers.1.0"])]
    options = QUICK["criterion_options"]
    assert both.importances["layers.1.0"].curve == cmi(second, labels, **options).curve
    assert both.importances["layers.2.0"].curve == cmi(third, labels, [middle], **options).curve
    assert both.importances["layers.0.0"].curve == cmi(first, labels, [middle], **options).curve
    everything = planned(three, images, keep=keep, conditioning="all", direction="both")
    last = third[:, list(everything.plan.kept["layers.2.0"])]
    assert everything.importances["layers.0.0"].curve == cmi(first, labels, [last, middle], **options).curve


def test_two_processes_find_what_one_does(three, images):
    words = {"cutoff": "grid", "cutoff_options": {"steps": 3}, "conditioning": "compact", "direction": "both",
             "tolerance": 5.0}  # fmt: skip
    one, two = planned(three, images, **words), planned(three, images, parallel=True, **words)
    assert one.plan.to_dict()["layers"] == two.plan.to_dict()["layers"]


def test_the_judge_measures_the_network_without_the_channels(two, images):
    groups = find_groups(two, images[0][0][:2])
    judge = Judge(two, images[0][0][:2], groups, images)
    kept = {"layers.0.0": (0, 3), "layers.1.0": (1, 2, 5)}
    removal = surgery.removal_of(judge.plan(kept), groups, two)
    assert judge.accuracy(kept) == evaluate(equivalence.masked(two, removal), images).accuracy
    found = judge.cut(kept)(images[0][0])
    assert torch.allclose(found, equivalence.masked(two, removal)(images[0][0]), atol=1e-5)
    # A mask on the convolution alone leaves what the norm makes of zero.
    half = equivalence.masked(two, {place: gone for place, gone in removal.items() if isinstance(
        two.get_submodule(place[0]), nn.Conv2d) and place[1] == "out"})  # fmt: skip
    with torch.no_grad():
        two.layers[0][1].bias.add_(1.0)
        half.layers[0][1].bias.add_(1.0)
    assert not torch.allclose(Judge(two, images[0][0][:2], groups, images).cut(kept)(images[0][0]), half(images[0][0]))


@pytest.mark.parametrize("repair", [info.name for info in all_repairs() if info.name != "distil"])
def test_losses_are_counted_from_the_whole_network_given_the_same_repair(two, images, repair):
    groups = find_groups(two, images[0][0][:2])
    for module in two.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.5)  # what the repair counts anew is no loss of the cut's
    judge = Judge(two, images[0][0][:2], groups, images, repair, images)
    plan = judge.plan({})
    whole = repaired(two, two, images, plan, groups, how=repair)
    assert judge.base == judge.accuracy({}) == evaluate(whole, images).accuracy
    if repair == "bn":
        torch.testing.assert_close(judge.cut({})(images[0][0]), reestimate(two, images)(images[0][0]))


def test_the_judge_measures_the_same_network_once(two, images, monkeypatch):
    measured = []
    monkeypatch.setattr(judging, "class_counts_of", lambda model, *rest, **named: (
        measured.append(model) or class_counts_of(model, *rest, **named)))  # fmt: skip
    judge = Judge(two, images[0][0][:2], find_groups(two, images[0][0][:2]), images)
    for kept in ({"layers.0.0": (0, 3)}, {"layers.0.0": (0, 3), "layers.1.0": tuple(range(8))}, {"layers.0.0": (0, 3)}):
        judge.accuracy(kept)
    assert len(measured) == 1
    assert judge.accuracy({"layers.1.0": tuple(range(8))}) == judge.base
    assert len(measured) == 2


def test_the_judge_measures_in_bfloat16_what_lays_its_maps_flat_by_view(images):
    class Flat(Chain):
        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.head(nn.functional.adaptive_avg_pool2d(x, 2).view(len(x), -1))

    torch.manual_seed(0)
    model = Flat(6, 8)
    model.head = nn.Linear(32, 4)
    judge = Judge(model.eval(), images[0][0][:2], find_groups(model, images[0][0][:2]), images, half=True)
    assert 0 <= judge.accuracy({"layers.0.0": (0, 3)}) <= 100


def test_the_fewest_filters_within_the_tolerance_are_taken(three, images):
    found = planned(three, images, cutoff="grid", cutoff_options={"steps": 3}, tolerance=10.0)
    base = evaluate(three, images).accuracy
    for number, (layer, decision) in enumerate(found.plan.decisions.items(), 1):
        evidence = found.importances[layer].evidence
        counts, accuracies = evidence["candidates"].tolist(), evidence["candidate_accuracy"].tolist()
        assert counts[-1] == decision.filters
        assert int(evidence["cut"]) == len(decision.kept)
        floor = base - 10.0 * number / 3
        tried = [(count, accuracy) for count, accuracy in zip(counts, accuracies, strict=True) if accuracy == accuracy]
        assert all(accuracy < floor for count, accuracy in tried if count < len(decision.kept))
    small = infoprune.apply(found.plan, three, images[0][0])
    assert evaluate(small, images).accuracy >= base - 10.0


def test_without_a_tolerance_the_best_candidate_is_taken(two, images):
    found = planned(two, images, cutoff="grid", cutoff_options={"steps": 4})
    for importance in found.importances.values():
        accuracies = importance.evidence["candidate_accuracy"].tolist()
        best = accuracies.index(max(accuracies))
        assert int(importance.evidence["cut"]) == int(importance.evidence["candidates"][best])
        assert len(accuracies) == 3


def test_dead_filters_alone_may_go(images):
    model = trained(images, 6, 8)
    with torch.no_grad():
        model.layers[0][1].weight[[1, 4]] = 0
        model.layers[0][1].bias[[1, 4]] = -1
    found = planned(model, images, cutoff="tolerance", cutoff_options={"epsilon": 0.9}, tolerance=0.0)
    assert 4 in found.importances["layers.0.0"].evidence["candidates"].tolist()
    assert {1, 4}.isdisjoint(found.plan.kept["layers.0.0"])


@pytest.mark.parametrize("rule", ["scree", "xmeans", "permutation", "tolerance", "acceleration", "coordinates", "grid"])
def test_every_rule_makes_a_plan(two, images, rule):
    found = planned(two, images, cutoff=rule, conditioning="compact", tolerance=20.0)
    small = infoprune.apply(found.plan, two, images[0][0])
    assert evaluate(small, images).accuracy >= evaluate(two, images).accuracy - 20.0


def test_a_finished_layer_is_never_ordered_again(three, images, tmp_path, monkeypatch):
    words = {**QUICK, "cutoff": "grid", "conditioning": "compact", "direction": "both", "tolerance": 5.0}
    state, ordered = tmp_path / "out.resume", []
    whole = infoprune.plan(three, images, held_out=images, **words)

    def counting(limit):
        def order(*arguments, **options):
            if len(ordered) == limit:
                raise KeyboardInterrupt
            ordered.append(1)
            return cmi(*arguments, **options)

        return order

    for limit in (2, 4, 99):
        monkeypatch.setattr(choosing, "conditional_mutual_information_order", counting(limit))
        try:
            again = infoprune.plan(three, images, held_out=images, resume=state, **words)
        except KeyboardInterrupt:
            assert state.exists()
    # Every layer alone, and the two beside the start once more.
    assert len(ordered) == 5
    assert again.to_dict()["layers"] == whole.to_dict()["layers"]
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_run_is_refused(two, images, tmp_path):
    state = tmp_path / "out.resume"
    words = {**QUICK, "cutoff": "grid"}
    make_plan(two, images, chosen(**words), held_out=images, resume=state)
    assert json.loads(state.read_text())["found"]
    make_plan(two, images, chosen(**words), held_out=images, resume=state)
    others = [(pictures + 0.1, labels) for pictures, labels in images]
    with pytest.raises(InputError, match="another set of calibration images"):
        make_plan(two, others, chosen(**words), held_out=images, resume=state)
    with pytest.raises(InputError, match=r"another seed \(0, now 1\)"):
        make_plan(two, images, chosen(**words, seed=1), held_out=images, resume=state)
    with torch.no_grad():
        two.head.bias.add_(1e-3)
    with pytest.raises(InputError, match="another network"):
        make_plan(two, images, chosen(**words), held_out=images, resume=state)
    state.write_text("{")
    with pytest.raises(InputError, match="not the state of a plan"):
        make_plan(two, images, chosen(**words), held_out=images, resume=state)


def test_the_iterative_form_reads_the_maps_of_the_repaired_network(three, images):
    result = infoprune.prune(three, images, ratio=0.5, conditioning="compact", repair_between_layers="least-squares",
                             test=images, **QUICK, repair=None)  # fmt: skip
    plain = infoprune.prune(three, images, ratio=0.5, conditioning="compact", test=images, **QUICK, repair=None)
    assert result.plan.kept["layers.0.0"] == plain.plan.kept["layers.0.0"]
    assert result.importances["layers.2.0"].curve != plain.importances["layers.2.0"].curve
    widths = {name: layer.weight.shape for name, layer in result.model.named_modules() if isinstance(layer, nn.Conv2d)}
    assert widths["layers.2.0"] == (3, 4, 3, 3)
    assert not torch.equal(result.model.layers[1][0].weight, plain.model.layers[1][0].weight)
    assert result.pruned.macs == plain.pruned.macs


def test_the_iterative_form_goes_on_behind_a_layer_of_one_filter(three, images):
    keep = {"layers.0.0": 1, "layers.1.0": 4, "layers.2.0": 3}
    result = infoprune.prune(
        three, images, keep=keep, conditioning="compact", repair_between_layers="bn", **QUICK, repair=None
    )
    assert {name: len(kept) for name, kept in result.plan.kept.items()} == keep
    assert float(result.importances["layers.1.0"].evidence["given"]) == 0
    assert float(result.importances["layers.2.0"].evidence["given"]) > 0


def test_maps_that_do_not_fit_are_read_again(three, images):
    groups = find_groups(three, images[0][0][:2]).groups
    little, enough = LayerMaps(three, groups, images, memory=1), LayerMaps(three, groups, images)
    for name in ("layers.0.0", "layers.2.0", "layers.0.0"):
        assert torch.equal(little.of(name), enough.of(name))
        assert len(little._held) == 1
    assert len(LayerMaps(three, groups, images, images=20).of("layers.1.0")) == 20


def test_another_criterion_is_cut_by_a_curve_it_has(two, images):
    with pytest.raises(InputError, match="'l1' gives no curve"):
        planning.make_plan(two, images, chosen(criterion="l1", cutoff="scree"))
    found = planning.make_plan(two, images, chosen(criterion="l1", cutoff="grid", tolerance=5.0), held_out=images)
    assert all(math.isfinite(sum(found.scores)) for found in found.plan.decisions.values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"cutoff": "scree", "ratio": 0.5}, "ratio and cutoff"),
        ({"cutoff": "screen"}, "did you mean 'scree'"),
        ({"cutoff": "scree", "cutoff_options": {"counts": 2}}, "did you mean 'count'"),
        ({"cutoff": "scree", "conditioning": "compct"}, "did you mean 'compact'"),
        ({"cutoff": "scree", "direction": "bacward"}, "did you mean 'backward'"),
        ({"cutoff": "scree", "tolerance": -1}, "0 or more"),
        ({"cutoff": "scree", "class_tolerance": -1}, "0 or more"),
        ({"ratio": 0.5, "class_tolerance": 1.0}, "class_tolerance is for layers"),
        ({"cutoff": "scree", "parallel": True}, "two branches"),
        ({"cutoff": "scree", "parallel": True, "direction": "both", "conditioning": "all"}, "any conditioning but"),
        ({"cutoff": "scree", "repair_between_layers": "bn", "direction": "both"}, "iterative form"),
        ({"cutoff": "scree", "repair_between_layers": "nb"}, "unknown repair|there is no repair"),
        ({"cutoff": "scree", "conditioning": "full", "criterion": "hrel"}, "only the criterion 'cmi'"),
        ({"ratio": 0.5, "tolerance": 1.0}, "tolerance is for layers"),
        ({"ratio": 0.5, "direction": "both"}, "direction is for layers"),
        ({"budget": infoprune.Budget(macs=0.5), "conditioning": "full"}, "cuts all layers at once"),
        ({"keep": {"layers.0.0": [1, 2]}, "conditioning": "full"}, "listed"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(words, sentence):
    with pytest.raises(InputError, match=sentence):
        chosen(**words)


def test_a_count_that_is_out_of_range_is_refused(two, images):
    with pytest.raises(InputError, match="can keep 1 to 6 filters, not 7"):
        planned(two, images, keep={"layers.0.0": 7}, conditioning="compact")


def test_images_that_run_out_are_refused(two, images):
    with pytest.raises(InputError, match="iterable more than once"):
        make_plan(two, iter(images), chosen(cutoff="scree"))
    assert not Path("out.resume").exists()


def test_no_class_pays_for_all(images):
    model = trained(images, 6, 8, 6)
    names = ("layers.0.0", "layers.1.0", "layers.2.0")
    judge = Judge(model, images[0][0][:2], find_groups(model, images[0][0][:2]), images)
    # The share of the images of a class that the network puts there, counted by hand.
    pictures, labels = (torch.cat(part) for part in zip(*images, strict=True))
    kept = {"layers.1.0": (0, 3, 5)}
    for network, found in ((model, judge.class_base), (judge.cut(kept), judge.classes(kept))):
        answers = network(pictures).argmax(1)
        assert found == pytest.approx([100 * float((answers[labels == c] == c).double().mean()) for c in range(4)])
    lost = [before - now for before, now in zip(judge.class_base, judge.classes(kept), strict=True)]
    assert judge.largest_class_loss(kept) == max(lost)
    words = {"criterion": "l2", "cutoff": "grid", "criterion_options": {}}
    for most in (0.0, 20.0, 100.0):
        found = planned(model, images, class_tolerance=most, **words)
        for number in range(1, 4):
            done = {name: found.plan.kept[name] for name in names[:number]}
            assert judge.largest_class_loss(done) <= most * number / 3 + 1e-9
    widths = [sum(map(len, planned(model, images, class_tolerance=most, **words).plan.kept.values()))
              for most in (0.0, 100.0)]  # fmt: skip
    assert widths[1] < widths[0]


def test_the_mean_may_hide_what_one_class_loses(images):
    model = trained(images, 6, 8, 6)
    judge = Judge(model, images[0][0][:2], find_groups(model, images[0][0][:2]), images)
    words = {"criterion": "l2", "cutoff": "grid", "criterion_options": {}, "tolerance": 30.0}
    alone, both = planned(model, images, **words), planned(model, images, **words, class_tolerance=15.0)
    assert judge.largest_class_loss(alone.plan.kept) > 15 >= judge.largest_class_loss(both.plan.kept)
    assert judge.base - judge.accuracy(both.plan.kept) <= 30


def test_a_class_without_held_out_images_loses_nothing(two, images):
    some = [(pictures[labels < 3], labels[labels < 3]) for pictures, labels in images]
    judge = Judge(two, images[0][0][:2], find_groups(two, images[0][0][:2]), some)
    assert math.isnan(judge.class_base[3])
    assert math.isfinite(judge.largest_class_loss({"layers.0.0": (0, 1)}))
