"""Values that do not fit are refused in one sentence that names the entry; nothing is converted silently."""

import os
from dataclasses import dataclass

import pytest

from infoprune.declarations.validation import LARGEST_JSON, parsed_object, read_json, read_object, validated
from infoprune.errors import InputError
from infoprune.plan import Budget, LayerDecision
from infoprune.training.recipe import Recipe


@dataclass(frozen=True)
class Outer:
    recipe: Recipe | None = None
    budgets: tuple[Budget, ...] = ()
    limit: int | float = 1


def test_values_that_fit():
    layer = validated(LayerDecision, {"layer": "a", "filters": 3, "kept": [0, 2], "scores": [1, 2.5, 0]}, "the layer")
    assert layer == LayerDecision("a", 3, (0, 2), scores=(1.0, 2.5, 0.0))
    outer = validated(Outer, {"recipe": {"sizes": [16, 32]}, "budgets": [Budget(macs=0.5)], "limit": 0.5}, "it")
    assert outer == Outer(Recipe(sizes=(16, 32)), (Budget(macs=0.5),), 0.5)
    assert validated(dict[str, int], {"a": 1}, "the counts") == {"a": 1}


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (LayerDecision, {"layer": "a", "filters": 3, "kept": [0, 1.5]}, "'kept.1' must be a whole number, not 1.5"),
        (LayerDecision, {"layer": "a", "filters": 3, "kept": [0, 1.0]}, "'kept.1' must be a whole number, not 1.0"),
        (LayerDecision, {"layer": "a", "filters": "3", "kept": [0]}, "'filters' must be a whole number, not '3'"),
        (LayerDecision, {"layer": "a", "filters": True, "kept": [0]}, "'filters' must be a whole number, not true"),
        (LayerDecision, {"layer": "a", "kept": [0]}, "it has no 'filters'"),
        (LayerDecision, {"layer": "a", "filters": 3, "kept": 1}, "'kept' must be a list, not 1"),
        (LayerDecision, {"layer": "a", "filters": 3, "kept": [7]}, "there is no filter 7"),
        (LayerDecision, {"layer": "a", "filters": 3, "kept": [0], "score": [1]}, "did you mean 'scores'"),
        (LayerDecision, [1], "it must be an object, not a list of 1"),
        (LayerDecision, None, "it must be an object, not null"),
        (Outer, {"recipe": {"epochs": 1.5}}, "'recipe.epochs' must be a whole number, not 1.5"),
        (Outer, {"recipe": {"epoch": 1}}, "did you mean 'epochs'"),
        (Outer, {"recipe": {"schedule": "warm"}}, "'recipe.schedule' must be 'one-cycle'"),
        (Outer, {"budgets": [{"macs": 2}]}, "'budgets.0.macs' must be less than or equal to 1, not 2"),
        (Outer, {"budgets": [{"mac": 2}]}, "did you mean 'macs'"),
        (Outer, {"limit": "3"}, "'limit' must be a whole number, not '3'"),
        (Outer, {"limit": {1, 2}}, "it must hold JSON values"),
        (Outer, {"limit": object}, "it must hold JSON values"),
        (dict[str, int], {"a": "b" * 200}, "'a' must be a whole number, not 'bbb"),
    ],
)
def test_values_that_do_not_fit(cls, values, sentence):
    with pytest.raises(InputError) as caught:
        validated(cls, values, "the thing")
    assert sentence in str(caught.value)
    assert "the thing" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_values_nested_without_end():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="JSON values"):
        validated(Outer, {"limit": deep}, "the thing")
    inner = {"limit": eval("[" * 150 + "]" * 150)}
    with pytest.raises(InputError):
        validated(Outer, inner, "the thing")


def test_files_that_are_no_json(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep.json").write_text("[" * 1_000_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text("[1]")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    for name, sentence in (
        ("pipe", "not a regular file"),
        ("deep.json", "nested too deeply"),
        ("binary.json", "is not JSON"),
        ("list.json", "must hold a JSON object, not a list of 1"),
        ("huge.json", "larger than"),
        ("none.json", "does not exist"),
        (".", "is a folder"),
        ("n" * 300, "cannot be read"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_object(tmp_path / name)
    assert read_json(tmp_path / "list.json") == [1]


def test_texts_that_are_no_object():
    assert parsed_object('{"a": 1}', "it") == {"a": 1}
    for text in ("[1]", "null", "{", "[" * 1_000_000, "1" * 5000):
        with pytest.raises(InputError, match="^it "):
            parsed_object(text, "it")
