"""The same plans, weights and figures as the commit before the rooms were moved, whatever has been rearranged since.

``records.json`` was written by that commit (b507c6d) with ``cases.py``. A change that is meant to give other results
writes it again: ``python tests/golden/test_records.py``.
"""

import json
from pathlib import Path

import cases
import pytest
import torch
from torch.utils.data import DataLoader

import infoprune
from infoprune.iterative.iterate import Images

RECORDS = Path(__file__).with_name("records.json")
# Five digits are on record.
TOLERANCE = {"rel": 3e-5, "abs": 3e-5}
# Results of a solve or of training: rounding grows on the way.
LOOSE = {"rel": 2e-3, "abs": 2e-3}


def found(name):
    """Return what a case gives now."""
    if name == "rounds":
        return cases.summary_of_rounds(in_rounds())
    network, words = cases.cases()[name]
    given = dict(words)
    if "budget" in given:
        given["budget"] = infoprune.Budget(**given["budget"])
    held_out, test = cases.batches(network, 200, 64), cases.batches(network, 400, 64)
    whole, images = cases.network(network), cases.batches(network)
    result = infoprune.prune(whole, images, held_out=held_out, test=test, **{"repair": None} | given)
    return cases.summary(result, result.record(), words)


def in_rounds():
    train = [
        pair for images, labels in cases.batches(cases.DIGITS, 0, 256) for pair in zip(images, labels, strict=True)
    ]
    images = Images(
        DataLoader(train, batch_size=32),
        cases.batches(cases.DIGITS),
        held_out=cases.batches(cases.DIGITS, 300, 64),
        test=cases.batches(cases.DIGITS, 400, 64),
    )
    schedule = infoprune.PruningSchedule.from_dict(cases.SCHEDULE)
    return infoprune.iterate(cases.network(cases.DIGITS), images, schedule)


def check(now, then, tolerance, where=""):
    """Compare JSON values: floats by tolerance, everything else exactly; what is new beside them is not looked at."""
    if isinstance(then, dict):
        assert then.keys() <= now.keys(), f"{where}: {then.keys() - now.keys()} gone"
        for key, value in then.items():
            check(now[key], value, tolerance, f"{where}/{key}")
    elif isinstance(then, list | tuple):
        assert len(now) == len(then), where
        for at, (one, other) in enumerate(zip(now, then, strict=True)):
            check(one, other, tolerance, f"{where}/{at}")
    elif isinstance(then, float):
        assert now == pytest.approx(then, **tolerance), where
    else:
        assert now == then, where


@pytest.mark.parametrize("name", [*cases.cases(), "rounds"])
def test_results_are_those_on_record(name):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = json.loads(json.dumps(found(name)))
    finally:
        torch.set_num_threads(threads)
    then = json.loads(RECORDS.read_text(encoding="utf-8"))[name]
    fitted = "repair" in cases.cases().get(name, ("", {"repair": ""}))[1] or name in ("rounds", "iterative", "reselect")
    check(now, then, LOOSE if fitted else TOLERANCE)


def test_the_check_sees_another_filter_and_another_weight():
    then = json.loads(RECORDS.read_text(encoding="utf-8"))["budget-l2"]
    for change in (
        {"plan": {**then["plan"], "stem.0": [0, 1]}},
        {"weights": {"all": [then["weights"]["all"][0] + 1, 0]}},
    ):
        with pytest.raises(AssertionError):
            check({**then, **change}, then, LOOSE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = [
        f"{json.dumps(name)}: {json.dumps(found(name), separators=(',', ':'))}" for name in [*cases.cases(), "rounds"]
    ]
    RECORDS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
