"""Cut-offs and conditioning as a user calls them: what is written, printed, and left behind."""

import json

import pytest

from infoprune.report import read_run

CUT = ("prune", "--no-repair", "--weights")
DIGITS = ("--data", "digits")
QUICK = ("--criterion-options", '{"alpha": 2.0, "method": "pairs"}', "--calibration", 96)


def test_a_cut_off_chooses_on_held_out_images_and_says_how(infoprune, base, folder):
    done = infoprune(*CUT, base, *DIGITS, *QUICK, "--cutoff", "scree", "--conditioning", "compact",
                     "--direction", "both", "--tolerance", 2, "--held-out", 100, "--stability", 2, "--run", "run",
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    settings = record["settings"]
    assert (settings["cutoff"], settings["conditioning"], settings["direction"], settings["tolerance"]) == (
        "scree", "compact", "both", 2.0)  # fmt: skip
    assert 0 < record["pruned"]["macs"] <= record["base"]["macs"]
    assert "order resolved up to" in done.out
    assert "Kendall tau" in done.out
    for layer, found in record["saturation"].items():
        assert 0 < found["saturation"] <= 1 + 1e-6
        assert 0 < found["saturated_at"] <= found["filters"]
        assert record["stability"][layer]["kept"][0] == len(record["plan"][layer])
        assert len(record["stability"][layer]["kept"]) == 2
    run = read_run(folder / "run")
    for layer, decision in run.plan.decisions.items():
        evidence = run.evidence[layer]
        assert int(evidence["cut"]) == len(decision.kept)
        assert int(evidence["cut"]) in evidence["candidates"].tolist()
        assert evidence["candidate_accuracy"].shape == evidence["candidates"].shape
        assert len(decision.curve) == decision.filters
    assert not list(folder.glob("*.resume*"))


def test_the_rules_are_listed(infoprune):
    done = infoprune("cutoffs")
    assert done.code == 0
    assert all(name in done.out for name in ("scree", "xmeans", "permutation", "tolerance", "grid"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--cutoff", "scree", "--criterion", "l1"), "gives no curve"),
        (("--cutoff", "knee"), "knee"),
        (("--cutoff", "scree", "--ratio", 0.5), "ratio and cutoff"),
        (("--cutoff", "scree", "--conditioning", "fully"), "--conditioning takes one of none, compact, full, all"),
        (("--cutoff", "scree", "--direction", "up"), "--direction takes one of forward, backward, both"),
        (("--cutoff", "scree", "--tolerance", -1), "0 or more"),
        (("--cutoff", "scree", "--cutoff-options", "[]"), "--cutoff-options takes a JSON object"),
        (("--cutoff", "tolerance", "--cutoff-options", '{"epsilon": 2}'), "between 0 and 1"),
        (("--cutoff", "scree", "--parallel"), "two branches"),
        (("--ratio", 0.5, "--tolerance", 1), "tolerance is for layers"),
        (("--macs", 0.5, "--conditioning", "full"), "cuts all layers at once"),
    ],
)
def test_what_does_not_hold_together_is_refused(infoprune, base, folder, options, sentence):
    done = infoprune("prune", "--no-repair", "--weights", base, *DIGITS, "--out", "small.safetensors", *options)
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert sentence in last
    assert not (folder / "small.safetensors").exists()
