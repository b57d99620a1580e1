"""A board on a small network: every cell is there, what fails is a row, and a budget is met in both ways."""

import pytest
import torch

import infoprune
from infoprune import criteria
from infoprune.board import BoardOptions
from infoprune.board.parts import Part
from infoprune.board.protocol import Sample, Subject, measured
from infoprune.board.rows import Row, Scored
from infoprune.board.sharing import uniform_ratio
from infoprune.errors import InputError
from infoprune.selection.calibration import Calibration


@pytest.fixture
def network():
    return infoprune.zoo.build("digits").eval()


@pytest.fixture
def images():
    return [(torch.rand(24, 1, 8, 8), torch.arange(24) % 10) for _ in range(2)]


@pytest.fixture
def own_criteria(monkeypatch):
    """A criterion that breaks, of no use to anybody else."""
    monkeypatch.setattr(criteria.base, "_REGISTRY", dict(criteria.base._REGISTRY))

    def broken(maps):
        raise RuntimeError("this criterion\nis broken")

    infoprune.register_criterion("broken", broken)


def test_every_cell_is_a_row_with_its_cost(network, images):
    board = infoprune.bench(network, images, images, criteria=("l2",), repairs=("bn",), budgets=(0.6, 0.4), seeds=2)
    options = BoardOptions(criteria=("l2",), repairs=("bn",), budgets=(0.6, 0.4), seeds=2)
    assert [row.cell for row in board.rows] == [cell for unit in options.units() for cell in options.cells(*unit)]
    assert len(board.rows) == 3 * 2 * 2 * 2 * 2
    for row in board.rows:
        assert 0 < row.macs <= row.budget * board.base.macs
        assert row.parameters < board.base.parameters
        assert 0 <= row.accuracy <= 100
        assert row.latency_ms > 0
        assert row.reason == ""
    assert [(one.criterion, one.seed) for one in board.scored] == options.units()
    assert all(one.passes > 0 for one in board.scored)
    assert set(board.base.coupled) == {"features.0", "features.3", "features.7", "features.10"}


def test_uniform_keeps_the_same_numbers_whatever_the_criterion(network, images):
    board = infoprune.bench(network, images, images, criteria=("variance",), repairs=(), budgets=(0.5,), seeds=1)
    uniform = {row.criterion: (row.macs, row.parameters) for row in board.rows if row.sharing == "uniform"}
    assert len(uniform) == 3
    assert len(set(uniform.values())) == 1
    calibration = Calibration.of(network, images)
    groups = calibration.groups.groups
    ratio = uniform_ratio(calibration, groups, 0.5)
    widths = {group.name: range(group.filters - int(ratio * group.filters + 1e-9)) for group in groups}
    fewer = {name: range(len(kept) + 1) for name, kept in widths.items()}
    assert calibration.costs.cost(widths).macs == next(iter(uniform.values()))[0]
    assert calibration.costs.cost(fewer).macs > 0.5 * calibration.costs.base.macs


def test_what_cannot_run_is_a_row_with_the_reason(network, images, own_criteria):
    unlabelled = [some for some, _ in images]
    board = infoprune.bench(
        network, unlabelled, images, criteria=("broken", "cmi"), budgets=(0.5,), seeds=1, repairs=()
    )
    assert board.failures == {
        "broken": "RuntimeError: this criterion is broken",
        "cmi": "the criterion 'cmi' needs labels: give (images, labels) pairs",
    }
    assert {row.criterion for row in board.rows if row.accuracy is not None} == {"random", "l1"}
    assert len([row for row in board.rows if row.criterion == "broken"]) == 2


def test_a_budget_that_cannot_be_met_leaves_the_others(network, images):
    board = infoprune.bench(network, images, images, criteria=("l1",), repairs=(), budgets=(0.5, 0.001), seeds=1)
    assert all(("cannot be met" in row.reason) == (row.budget == 0.001) for row in board.rows)


def test_the_network_is_left_as_it_is(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    infoprune.bench(network, images, images, criteria=("taylor",), budgets=(0.5,), seeds=1)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert not network.training


def test_known_scores_and_rows_are_not_measured_again(network, images):
    options = BoardOptions(criteria=("l1",), repairs=("bn",), budgets=(0.5,), sharing=("uniform",), seeds=1)
    subject = Subject(network, lambda seed: images, images, options)
    first = list(measured(subject, options.units()))
    scored = {(one.criterion, one.seed): one for one in first if isinstance(one, Scored)}
    rows = [one for one in first if isinstance(one, Row)]
    again = list(measured(subject, options.units(), known=scored, done=[row.cell for row in rows[1:]]))
    assert [row.cell for row in again] == [rows[0].cell]
    assert again[0].accuracy == rows[0].accuracy
    assert list(measured(subject, options.units(), done=[row.cell for row in rows])) == []


def test_fine_tuning_starts_from_every_repaired_network(network, images):
    options = BoardOptions(criteria=("l1",), repairs=("bn",), budgets=(0.5,), sharing=("global",), seeds=1)
    seen = []

    def tune(model, seed):
        seen.append((sum(p.numel() for p in model.parameters()), seed))
        return model

    rows = [one for one in measured(Subject(network, lambda seed: images, images, options, tune=tune), options.units())
            if isinstance(one, Row)]  # fmt: skip
    assert [row.tuned for row in rows] == [row.accuracy for row in rows]
    assert seen == [(row.parameters, 0) for row in rows]


def test_seeds_share_no_image():
    images = torch.arange(50.0)[:, None]
    parts = [torch.cat([batch.images for batch in Part([images[:30], images[30:]], 3, seed)]) for seed in range(3)]
    assert torch.cat(parts).sort(dim=0).values.equal(images)


def test_a_sample_knows_the_dead_filters(network, images):
    with torch.no_grad():
        network.features[0].weight[3] = 0
        network.features[1].weight[3] = 0
        network.features[1].bias[3] = 0
    options = BoardOptions(criteria=("l1",), repairs=(), budgets=(0.5,), sharing=("global",), seeds=1)
    sample = Sample.of(Subject(network, lambda seed: images, images, options), 0)
    assert 3 in sample.dead["features.0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"criteria": ("hrell",)}, "did you mean 'hrel'"),
        ({"repairs": ("bnn",)}, "did you mean 'bn'"),
        ({"sharing": ("even",)}, "unknown sharing"),
        ({"budgets": (1.5,)}, "budgets takes numbers above 0 and below 1"),
        ({"budgets": ()}, "budgets is empty"),
        ({"seeds": 0}, "seeds takes a whole number of 1 or more"),
        ({"fine_tune_epochs": 1}, "fine-tuning needs training images"),
        ({"epochs": 1}, "unknown option of a board"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(network, images, words, message):
    with pytest.raises(InputError, match=message):
        infoprune.bench(network, images, images, **words)


def test_all_means_every_criterion_once():
    names = BoardOptions(criteria=("all",)).criteria
    known = {info.name for info in infoprune.all_criteria()}
    assert set(names) == known - {"qsfm"}
    assert names[:2] == ("random", "l1")
    qsfm, alias = (criteria.find(name) for name in ("qsfm-ssim", "qsfm"))
    assert (qsfm.factory.func, qsfm.factory.keywords) == (alias.factory.func, alias.factory.keywords)
    assert (qsfm.tap, qsfm.images) == (alias.tap, alias.images)
