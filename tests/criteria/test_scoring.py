"""Groups, feature maps and criteria brought together."""

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from infoprune.criteria import CriterionInfo, Importance, all_criteria, create, find
from infoprune.criteria.scoring import filters_of, score, score_shards
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, Member


class Net(nn.Module):
    """A stem, a residual pair on it, and a layer of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 4, 3, padding=1, stride=1)
        self.outer_norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        x = x + self.outer_norm(self.outer(self.inner(x).relu()))
        return self.fc(x.relu().mean((2, 3)))


def one_to_one(n):
    return tuple((i,) for i in range(n))


def group(name, filters, *others, norms=(), channels=None):
    producers = (name, *others)
    members = tuple(Member(layer, "out", (channels or {}).get(layer, one_to_one(filters))) for layer in producers)
    return CoupledGroup(name, filters, one_to_one(filters), members, producers, norms)


INNER = group("inner", 6)
STREAM = group("stem", 4, "outer", norms=("stem_norm", "outer_norm"))
GROUPS = (STREAM, INNER)


@pytest.fixture
def model():
    model = Net().eval()
    for norm in (model.stem_norm, model.outer_norm):
        nn.init.normal_(norm.weight)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def batches(n=10, sizes=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 3, 6, 6, generator=generator), torch.arange(n) % 3
    return list(zip(x.split(sizes or n), y.split(sizes or n), strict=True))


class Spy:
    """Keeps what it is given."""

    seen: ClassVar = {}

    def __init__(self, filters, *, seed=0):
        self.filters, self.seed, self.parts = filters, seed, []
        Spy.seen[filters.name] = self

    def update(self, maps, labels):
        self.parts.append((maps, labels))

    def merge(self, other):
        raise NotImplementedError

    def compute(self):
        return Importance(torch.arange(len(self.filters.weights[0])).double())


def spied(model, groups, data, **options):
    declared = {name: options.pop(name) for name in ("needs_labels", "holds_maps", "images") if name in options}
    Spy.seen = {}
    found = score(model, groups, data, CriterionInfo("spy", Spy, "a spy", **declared), **options)
    return found, Spy.seen


def taps(model, x):
    with torch.no_grad():
        stem = model.stem_norm(model.stem(x)).relu()
        inner = model.inner(stem).relu()
        return stem, inner, model.outer_norm(model.outer(inner))


@pytest.mark.parametrize("holds", [False, True])
def test_every_group_gets_its_maps_and_labels_batch_by_batch(model, holds):
    data = batches(sizes=4)
    found, seen = spied(model, GROUPS, data, holds_maps=holds)
    assert list(found) == ["stem", "inner"]
    for name in ("stem", "inner"):
        assert [len(maps) for maps, _ in seen[name].parts] == [4, 4, 2]
        assert torch.equal(torch.cat([labels for _, labels in seen[name].parts]), torch.arange(10) % 3)
    for (x, _), (inner, _), (stream, _) in zip(data, seen["inner"].parts, seen["stem"].parts, strict=True):
        expected = taps(model, x)
        assert torch.allclose(inner, expected[1], atol=1e-6)
        assert stream.shape == (len(x), 4, 1, 72)
        assert torch.allclose(
            stream[:, :, 0], torch.cat([expected[0].flatten(2), expected[2].flatten(2)], 2), atol=1e-6
        )


def test_the_tap_is_the_criterions_unless_the_user_says_otherwise(model):
    data = batches()
    raw = model.inner(taps(model, data[0][0])[0])
    for tap, expected in ((None, raw.relu()), ("convolution", raw)):
        _, seen = spied(model, [INNER], data, tap=tap)
        assert torch.allclose(seen["inner"].parts[0][0], expected, atol=1e-6)


def test_filters_may_lie_anywhere_in_the_layers_of_a_group(model):
    channels = {"outer": ((3,), (2,), (1,), (0,))}
    _, seen = spied(model, [group("stem", 4, "outer", channels=channels)], data := batches())
    stem, _, outer = taps(model, data[0][0])
    expected = torch.cat([stem.flatten(2), outer.flip(1).flatten(2)], 2)
    assert torch.allclose(seen["stem"].parts[0][0][:, :, 0], expected, atol=1e-6)
    assert torch.equal(seen["stem"].filters.weights[1], model.outer.weight.flip(0).flatten(1))


def test_a_filter_may_have_several_channels_of_a_layer_or_none(model):
    channels = {"inner": ((0, 5), (1,), (), (4,))}
    _, seen = spied(model, [group("stem", 4, "inner", channels=channels)], data := batches())
    inner = taps(model, data[0][0])[1].flatten(2)
    nothing = torch.zeros_like(inner[:, 0])
    rows = [(inner[:, 0], inner[:, 5]), (inner[:, 1], nothing), (nothing, nothing), (inner[:, 4], nothing)]
    expected = torch.stack([torch.cat(pair, dim=1) for pair in rows], dim=1)
    assert torch.allclose(seen["stem"].parts[0][0][:, :, 0, 36:], expected, atol=1e-6)
    weights = seen["stem"].filters.weights[1]
    assert torch.equal(weights[0], model.inner.weight[[0, 5]].flatten())
    assert torch.equal(weights[3], torch.cat([model.inner.weight[4].flatten(), torch.zeros(36)]))
    assert weights[2].abs().sum() == 0


def test_a_single_layer_of_scattered_channels_keeps_its_axes(model):
    scattered = group("inner", 6, channels={"inner": ((5,), (4,), (3,), (2,), (1,), (0,))})
    _, seen = spied(model, [scattered], data := batches())
    assert torch.allclose(seen["inner"].parts[0][0], taps(model, data[0][0])[1].flip(1), atol=1e-6)


def test_weights_have_one_row_per_filter(model):
    filters = filters_of(model, STREAM)
    assert filters.name == "stem"
    assert torch.equal(filters.weights[0], model.stem.weight.flatten(1))
    assert torch.equal(filters.scales[1], model.outer_norm.weight.abs())
    assert not any(weight.requires_grad for weight in filters.weights)


def test_norms_without_a_scale_have_none(model):
    model.stem_norm = nn.BatchNorm2d(4, affine=False)
    assert len(filters_of(model, STREAM).scales) == 1


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_one_row_per_filter(groups):
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=groups, bias=False))
    rows = filters_of(model, group("0", 6)).weights[0]
    # A filter's weights are what its output depends on.
    for filter_ in range(6):
        model[0].weight.grad = None
        model(torch.ones(1, 4, 1, 1))[0, filter_].sum().backward()
        touched = model[0].weight[model[0].weight.grad != 0]
        assert torch.equal(rows[filter_].sort().values, touched.sort().values)


def test_grouped_convolutions_are_scored_filter_by_filter():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2))
    pairs = CoupledGroup("1", 4, ((0, 2), (1, 3)), (Member("1", "out", one_to_one(4)),), ("1",))
    assert torch.allclose(
        score(model, [pairs], None, find("l1"))["1"].scores, model[1].weight.double().abs().flatten(1).sum(1)
    )


def test_the_seed_and_options_reach_the_criterion(model):
    first, again, other = (score(model, GROUPS, None, find("random"), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name].scores, again[name].scores) for name in first)
    assert not any(torch.equal(first[name].scores, other[name].scores) for name in first)
    alone = score(model, [INNER], None, find("random"))
    assert torch.equal(alone["inner"].scores, first["inner"].scores)
    data = batches(n=20, sizes=5)
    widths = score(model, [INNER], data, find("hrel"), options={"batch": 10})["inner"].evidence["widths"]
    assert len(widths) == 2
    with pytest.raises(InputError, match="unknown option of the criterion 'hrel' 'batches': did you mean 'batch'"):
        score(model, [INNER], data, find("hrel"), options={"batches": 10})


@pytest.mark.parametrize("name", ["variance", "cmi", "hrel", "qsfm"])
def test_any_split_and_any_memory_score_alike(model, name):
    whole = score(model, GROUPS, batches(n=24), find(name))
    for memory in (1, 10**9):
        split = score(model, GROUPS, batches(n=24, sizes=7), find(name), memory=memory)
        for layer in whole:
            # Convolutions round differently in batches of other sizes.
            assert torch.allclose(split[layer].scores, whole[layer].scores, rtol=1e-4, atol=1e-6)


class Counting(list):
    """A list of batches that counts how often it is read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def test_held_maps_stay_within_the_memory(model):
    model_bytes = {"stem": 10 * 4 * 72 * 4, "inner": 10 * 6 * 36 * 4}
    for memory, passes in ((sum(model_bytes.values()), 1), (sum(model_bytes.values()) - 1, 2), (1, 2)):
        held = []

        class Watching(Spy):
            def update(self, maps, labels, held=held):
                super().update(maps, labels)
                held.append(self)

            def compute(self, held=held):
                held[:] = [one for one in held if one is not self]
                return super().compute()

        peak = 0

        def watch(stage, done, total, held=held):
            nonlocal peak
            peak = max(peak, len({id(one) for one in held}))

        info = CriterionInfo("watching", Watching, "watches", holds_maps=True)
        data = Counting(batches(sizes=3))
        score(model, GROUPS, data, info, memory=memory, progress=watch)
        assert peak == 3 - passes
        # Once for the sizes, once for the number of images.
        assert data.read == passes + 2


@pytest.mark.parametrize(("name", "options"), [("hrel", {"batch": 5}), ("qsfm", {})])
def test_what_is_held_in_place_of_maps_is_what_counts(model, name, options):
    """Of the stem's maps of 72 values distances or moments are held, and all is read at once where maps would not."""
    maps = {"stem": 20 * 4 * 72 * 4, "inner": 20 * 6 * 36 * 4}
    info, found = find(name), []
    counted = sum(info.held_bytes(filters, values, 4, options) for filters, values in ((4, 72), (6, 36))) * 20
    assert counted < sum(maps.values())
    for memory, passes in ((counted, 1), (counted - 1, 2)):
        data = Counting(batches(n=20, sizes=5))
        found.append(score(model, GROUPS, data, info, options=options, images=20, memory=memory))
        # Once for the sizes.
        assert data.read == passes + 1
    assert all(torch.equal(found[0][layer].scores, found[1][layer].scores) for layer in found[0])


def test_a_criterion_that_streams_takes_one_pass(model):
    data = Counting(batches(sizes=3))
    score(model, GROUPS, data, find("variance"), memory=1)
    assert data.read == 1


@pytest.mark.parametrize("holds", [False, True])
def test_at_most_so_many_images_are_read(model, holds):
    for declared, given, expected in ((7, None, 7), (7, 3, 3), (None, 9, 9), (None, None, 10), (50, None, 10)):
        _, seen = spied(model, GROUPS, batches(sizes=4), holds_maps=holds, **{"images": given} if given else {})
        info = CriterionInfo("spy", Spy, "a spy", holds_maps=holds, images=declared)
        score(model, GROUPS, batches(sizes=4), info, images=given)
        seen = Spy.seen
        for name in seen:
            assert sum(len(maps) for maps, _ in seen[name].parts) == expected
            assert torch.equal(torch.cat([y for _, y in seen[name].parts]), (torch.arange(10) % 3)[:expected])


def test_labels_may_be_missing_where_none_are_needed(model):
    images = [x for x, _ in batches(sizes=4)]
    _, seen = spied(model, GROUPS, images)
    assert torch.cat([y for _, y in seen["inner"].parts]).tolist() == [-1] * 10
    score(model, GROUPS, images, find("qsfm"))
    for name in ("cmi", "hrel"):
        with pytest.raises(InputError, match=f"the criterion '{name}' needs labels"):
            score(model, GROUPS, images, find(name))


def test_a_data_loader_is_fine(model):
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    from_loader = score(model, GROUPS, loader, find("cmi"), memory=1)
    from_list = score(model, GROUPS, batches(sizes=3), find("cmi"))
    assert all(from_loader[name].order == from_list[name].order for name in from_list)


@pytest.mark.parametrize(("holds", "memory"), [(False, 1), (True, 1), (True, 10**9)])
@pytest.mark.parametrize("images", [None, 5])
def test_progress_ends_at_its_total(model, holds, memory, images):
    told = {}
    spied(
        model,
        GROUPS,
        batches(sizes=3),
        holds_maps=holds,
        memory=memory,
        images=images,
        progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )
    assert told["scoring filters"] == [(1, 2), (2, 2)]
    steps = told["reading feature maps"]
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]


def test_criteria_of_weights_read_no_images(model):
    data = Counting(batches())
    for name in ("random", "l1", "l2"):
        assert list(score(model, GROUPS, data, find(name))) == ["stem", "inner"]
        score(model, GROUPS, None, find(name))
    assert data.read == 0


def test_what_cannot_be_scored_is_told(model):
    with pytest.raises(InputError, match="layer 'inner' has no batch norm with a scale"):
        score(model, GROUPS, None, find("bn-scale"))
    with pytest.raises(InputError, match="the criterion 'variance' reads feature maps: give images"):
        score(model, GROUPS, None, find("variance"))
    for name in ("variance", "qsfm"):
        with pytest.raises(InputError, match="there are no images"):
            score(model, GROUPS, [], find(name))
    with pytest.raises(InputError, match="'qsfm' reads the images several times: give a DataLoader or a list"):
        score(model, GROUPS, iter(batches()), find("qsfm"))

    class Short(Spy):
        def compute(self):
            return Importance(torch.zeros(2).double())

    with pytest.raises(InputError, match=r"layer 'stem' has 4 filters, but the criterion gave scores of shape \(2,\)"):
        score(model, GROUPS, batches(), CriterionInfo("short", Short, ""))


def test_no_groups_no_answer(model):
    assert score(model, [], batches(), find("variance")) == {}


MAPS = [info.name for info in all_criteria() if info.kind == "maps"]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("cuts", [(10,), (5, 5), (1, 6, 3)])
def test_parts_of_the_images_merged_score_as_all_of_them(model, name, cuts):
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    shards = [[part] for part in zip(x.split(list(cuts)), y.split(list(cuts)), strict=True)]
    groups = [STREAM] if name == "bn-scale" else GROUPS  # the inner layer has no norm
    model = model.double()  # a convolution rounds otherwise where a batch has another size
    merged = score_shards(model, groups, shards, find(name), seed=3)
    whole = score(model, groups, [(x, y)], find(name), seed=3)
    for layer in whole:
        assert torch.allclose(merged[layer].scores, whole[layer].scores, rtol=1e-9, atol=1e-12)
        assert merged[layer].order == whole[layer].order


def test_a_criterion_of_networks_is_not_merged_and_one_kind_is_declared(model):
    with pytest.raises(InputError, match="'reconstruction' is merged from the feature maps"):
        score_shards(model, GROUPS, [batches()], find("reconstruction"))
    with pytest.raises(InputError, match="'variance' is merged from the feature maps"):
        score_shards(model, GROUPS, [], find("variance"))
    for declared in ({"factory": None}, {"factory": Spy, "score_network": score}):
        with pytest.raises(InputError, match="declare a factory or score_network"):
            CriterionInfo("both", description="", **declared)
    with pytest.raises(InputError, match="'reconstruction' sees the whole network"):
        create(find("reconstruction"), filters_of(model, STREAM))
