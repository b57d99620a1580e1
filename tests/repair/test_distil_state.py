"""The repair by gradient goes on after an interruption and ends with the same weights, bit for bit."""

import pytest
import torch

from infoprune.errors import InputError
from infoprune.repair import distil as module
from infoprune.repair import repair, student
from nets import Residual, images, pair_of


class StopError(Exception):
    """An interruption."""


KEEP = {"inner1.0": (0, 3, 5, 7, 8, 11), "inner2.0": (0, 1, 2, 3, 4)}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return pair_of(Residual(), images(200, parts=4), KEEP)


def distilled(pair, path, *, stop=None, batches=None, minutes=None):
    def progress(stage, done, total):
        if (stage, done) == stop:
            raise StopError

    given = pair.batches if batches is None else batches
    return repair(pair.small, pair.original, given, pair.plan, method="distil", epochs=4, minutes=minutes, resume=path,
                  progress=progress)  # fmt: skip


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Ten steps an epoch; going back to the best weights where an epoch is far from them, or where it is no better at all.
@pytest.mark.parametrize("step", [1, 17, 22, 40])
@pytest.mark.parametrize("much_worse", [student._MUCH_WORSE, 0.0])
def test_an_interrupted_distillation_ends_with_the_same_weights(pair, tmp_path, monkeypatch, step, much_worse):
    monkeypatch.setattr(student, "_MUCH_WORSE", much_worse)
    whole = distilled(pair, None)
    with pytest.raises(StopError):
        distilled(pair, tmp_path / "out", stop=("distilling", step))
    assert [path.name for path in tmp_path.iterdir()] == ["out.distil"]
    assert same(distilled(pair, tmp_path / "out"), whole)
    assert list(tmp_path.iterdir()) == []
    assert not same(whole, pair.small)


def test_least_squares_is_not_done_again(pair, tmp_path, monkeypatch):
    with pytest.raises(StopError):
        distilled(pair, tmp_path / "out", stop=("distilling", 1))
    monkeypatch.setattr(module, "least_squares", None)
    distilled(pair, tmp_path / "out")


def test_the_time_that_is_left_is_used(pair, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    spent = []

    def progress(stage, done, total):
        now[0] += 1
        if stage == "distilling":
            spent.append(now[0])
            if len(spent) == 11:
                raise StopError

    words = {"method": "distil", "epochs": 4, "resume": tmp_path / "out", "minutes": 0.75}
    with pytest.raises(StopError):
        repair(pair.small, pair.original, pair.batches, pair.plan, progress=progress, **words)
    before = now[0]
    repair(pair.small, pair.original, pair.batches, pair.plan, progress=progress, **words)
    # One epoch of ten steps was kept; what came after it is done again.
    assert before - 1 < 45
    assert now[0] - before <= 45 - spent[9] + 1


def test_the_state_of_another_repair_is_refused(pair, tmp_path):
    with pytest.raises(StopError):
        distilled(pair, tmp_path / "out", stop=("distilling", 5))
    for words, named in (
        ({"batches": [batch + 0.1 for batch in pair.batches]}, "set of repair images"),
        ({"batches": pair.batches[:2]}, "number of repair images"),
        ({"minutes": 5.0}, "minutes"),
    ):
        with pytest.raises(InputError, match=named):
            distilled(pair, tmp_path / "out", **words)
    (tmp_path / "out.distil").write_text("precious")
    with pytest.raises(InputError, match="not the state of a repair"):
        distilled(pair, tmp_path / "out")
    assert (tmp_path / "out.distil").read_text() == "precious"
