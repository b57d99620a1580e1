"""Repairs and the budget's criterion, called as a user calls them."""

import json

import pytest
from safetensors import safe_open

DIGITS = ("--data", "digits")


@pytest.mark.parametrize("repair", ["merge", "channels", "fold", "least-squares", "all", "alternating"])
def test_every_repair_ends_in_a_checkpoint_that_measures_as_recorded(infoprune, base, folder, repair):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "l1", "--macs", 0.4, "--repair", repair,
                     "--repair-images", 400, "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert record["pruned"]["accuracy"] > record["as_cut"]["accuracy"]
    assert record["pruned"]["macs"] == record["as_cut"]["macs"] <= 0.4 * record["base"]["macs"]
    assert record["repair"] == repair
    again = infoprune("evaluate", folder / "small.safetensors", *DIGITS, "--json", "again.json")
    assert again.code == 0, again.err
    found = json.loads((folder / "again.json").read_text())["figures"]
    assert found["accuracy"] == pytest.approx(record["pruned"]["accuracy"], abs=0.3)


def test_a_budget_shared_out_by_reconstruction(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "l1", "--macs", 0.5, "--budget-by",
                     "reconstruction", "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert 0.45 < record["pruned"]["macs"] / record["base"]["macs"] <= 0.5
    assert record["settings"]["budget_by"] == "reconstruction"
    with safe_open(folder / "small.safetensors", "pt") as stored:
        assert stored.keys()


def test_budget_by_without_a_budget_is_one_sentence(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--ratio", 0.5, "--budget-by", "reconstruction",
                     "--out", "small.safetensors")  # fmt: skip
    assert done.code == 2
    assert "pass a budget with it" in done.err


def test_a_threshold_on_the_similarity_and_merging_into_remembered_partners(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "qsfm-ssim", "--threshold", 0.35, "--repair",
                     "merge", "--out", "small.safetensors", "--json", "out.json", "--run", "run")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert record["pruned"]["accuracy"] > record["as_cut"]["accuracy"]
    layers = json.loads((folder / "run" / "plan.json").read_text())["layers"]
    assert 0 < sum(len(layer["kept"]) for layer in layers.values()) < sum(layer["filters"] for layer in layers.values())
    for layer in layers.values():
        below = [i for i, score in enumerate(layer["scores"]) if score < 0.35]
        assert layer["kept"] == [i for i in range(layer["filters"]) if i not in below]
        assert all(layer["partner"][i] >= 0 for i in below)


def test_free_filters_are_counted_apart(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "l1", "--macs", 0.5, "--remove-constant",
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert record["free"].keys() == {"filters", "macs", "parameters"}
    assert f"constant filters, removed without loss: {record['free']['filters']} filters" in done.out
    assert 0.45 < record["pruned"]["macs"] / record["base"]["macs"] <= 0.5
    shown = infoprune("show", "small.safetensors", "--json", "shown.json")
    assert shown.code == 0, shown.err


def test_filters_chosen_anew_and_a_repair_by_gradient_that_ends_in_time(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "random", "--macs", 0.5, "--reselect",
                     "--repair", "distil", "--repair-images", 300, "--repair-minutes", 0.05,
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert record["settings"]["reselect"] is True
    assert record["seconds"]["repair"] < 60
    assert record["pruned"]["accuracy"] > record["as_cut"]["accuracy"]
