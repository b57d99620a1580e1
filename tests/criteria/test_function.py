"""A user's own criterion, registered in a line or named on the command line."""

import sys

import pytest
import torch

import infoprune.criteria as criteria
from infoprune.criteria import CriterionInfo, Filters, create, register_criterion, resolve
from infoprune.criteria.base import _REGISTRY
from infoprune.errors import InputError

MAPS = torch.rand(6, 3, 2, 2)
LABELS = torch.arange(6) % 2


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch):
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "mine.py").write_text(
        "from infoprune.criteria import CriterionInfo\n"
        "from infoprune.criteria.variance import Variance\n"
        "def peak(maps, labels):\n"
        "    '''The largest value.\n\n    Of all.'''\n"
        "    return maps.amax(dim=(0, 2, 3))\n"
        "streamed = CriterionInfo('streamed', Variance, 'a criterion that streams')\n"
        "number = 3\n"
    )
    (tmp_path / "broken_module.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith(("own_package", "broken_module"))]:
        del sys.modules[name]


def scored(info, maps=MAPS, **options):
    criterion = create(info, Filters((), (), "conv"), options=options)
    criterion.update(maps[:4], LABELS[:4])
    criterion.update(maps[4:], LABELS[4:])
    return criterion.compute()


def test_one_line_makes_a_function_a_criterion():
    register_criterion("peak", lambda maps, labels: maps.amax(dim=(0, 2, 3)))
    info = criteria.find("peak")
    assert info is resolve("peak")
    assert torch.equal(scored(info).scores, MAPS.amax(dim=(0, 2, 3)).double())
    assert info.holds_maps
    assert info.needs_labels


def test_it_sees_all_maps_and_labels_at_once():
    seen = []

    def mine(maps, labels):
        """Look at it all.

        Twice.
        """
        seen.append((maps, labels))
        return [3, 1, 2]

    info = register_criterion("mine", mine, tap="norm")
    assert scored(info).order == (0, 2, 1)
    assert torch.equal(seen[0][0], MAPS)
    assert torch.equal(seen[0][1], LABELS)
    assert info.description == "Look at it all."
    assert info.tap == "norm"


def test_a_function_of_maps_alone_needs_no_labels():
    info = register_criterion("mean", lambda maps: maps.mean(dim=(0, 2, 3)))
    assert not info.needs_labels
    assert torch.allclose(scored(info).scores, MAPS.mean(dim=(0, 2, 3)).double())


def test_keyword_only_arguments_are_options():
    info = register_criterion("power", lambda maps, labels, *, p=1.0: maps.pow(p).sum(dim=(0, 2, 3)))
    assert torch.allclose(scored(info, p=2.0).scores, MAPS.pow(2.0).sum(dim=(0, 2, 3)).double())
    with pytest.raises(InputError, match="unknown option of the criterion 'power' 'q': choose one of p"):
        scored(info, q=2)


def test_a_second_argument_that_is_an_option_is_not_the_labels():
    info = register_criterion("scaled", lambda maps, factor=2.0: factor * maps.sum(dim=(0, 2, 3)))
    assert not info.needs_labels
    assert torch.allclose(scored(info).scores, 2 * MAPS.sum(dim=(0, 2, 3)).double())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda maps, labels: maps.sum(dim=(0, 2)), r"shape \(3,\), but gave shape \(3, 2\)"),
        (lambda maps, labels: maps.sum(), r"shape \(3,\), but gave shape \(\)"),
        (lambda maps, labels: torch.tensor([1.0, torch.nan, 2.0]), "gave nan for filter 1: give finite scores"),
        (lambda maps, labels: [1, 2, float("inf")], "gave inf for filter 2"),
        (lambda maps, labels: None, "one number per filter, not NoneType"),
        (lambda maps, labels: ["a", "b", "c"], "one number per filter, not list"),
        (lambda maps, labels: {1: 2}, "one number per filter, not dict"),
    ],
)
def test_wrong_answers_are_told(function, message):
    with pytest.raises(InputError, match=f"the criterion 'wrong' .*{message}"):
        scored(register_criterion("wrong", function))


@pytest.mark.parametrize(
    "function", [lambda: 0, lambda maps, labels, more: 0, lambda maps, labels, *, p: 0, lambda *, maps: 0]
)
def test_functions_of_other_arguments_are_refused(function):
    with pytest.raises(InputError, match=r"the criterion 'odd' must take \(maps, labels\) or \(maps\)"):
        register_criterion("odd", function)


def test_a_taken_name_and_what_is_no_function_are_refused():
    with pytest.raises(InputError, match="a criterion named 'hrel' exists already"):
        register_criterion("hrel", lambda maps, labels: maps)
    with pytest.raises(InputError, match="must be a function of feature maps and labels, not 3"):
        register_criterion("three", 3)


def test_a_function_is_found_by_module_and_name_in_the_working_directory(own_module):
    path = list(sys.path)
    info = resolve("own_package.mine:peak")
    assert sys.path == path
    assert info.name == "own_package.mine:peak"
    assert info.description == "The largest value."
    assert torch.equal(scored(info).scores, MAPS.amax(dim=(0, 2, 3)).double())


def test_a_declared_criterion_is_found_so_too(own_module):
    info = resolve("own_package.mine:streamed")
    assert isinstance(info, CriterionInfo)
    assert scored(info).scores.shape == (3,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hrell", "unknown criterion 'hrell': did you mean 'hrel'"),
        ("own_package.mine:peaks", "unknown criterion of module 'own_package.mine' 'peaks': did you mean 'peak'"),
        ("own_package.mine:number", "must be a function of feature maps and labels, not 3"),
        (
            "no_such_module:peak",
            "the criterion 'no_such_module:peak' cannot be imported: there is no module 'no_such_module'",
        ),
        ("broken_module:peak", "cannot be imported: ModuleNotFoundError: No module named 'a_package_nobody_has'"),
        (":peak", "the criterion ':peak' cannot be imported"),
        ("own_package.mine:", "unknown criterion of module 'own_package.mine' ''"),
        ("", "unknown criterion ''"),
    ],
)
def test_what_cannot_be_found_is_told(own_module, spec, message):
    with pytest.raises(InputError, match=message):
        resolve(spec)
