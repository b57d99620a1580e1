"""The root of the command line: light to start, complete in its lists, and every value checked by one rule."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune import cli
from infoprune.cli.app import COMMANDS, app, command_function
from infoprune.cli.from_dataclass import flags_of
from infoprune.cli.options_table import options_table
from infoprune.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning_fabric", "sklearn", "scipy", "torch_pruning", "rich.progress", "PIL", "numpy")
FLAGS = [(name, flag) for name in COMMANDS for flag in flags_of(command_function(name))]


def python(code, *arguments, **environment):
    """Run Python apart from this process, which has imported everything already."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, *(("-c", code) if code else ()), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path, **environment}, check=False)  # fmt: skip


def heavy_after(*arguments):
    """Return which heavy modules the command line has imported when it ends."""
    done = python(
        "import sys\nfrom infoprune.cli import main\n"
        f"sys.argv = {['infoprune', *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit as left:\n    code = left.code\n"
        f"print('HEAVY', code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("HEAVY ", 1)[1].strip()


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["infoprune", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.mark.parametrize("arguments", [("--help",), (), ("--version",), ("prune", "--help"), ("iterate", "--help")])
def test_help_is_shown_without_the_library(arguments):
    assert heavy_after(*arguments) == "0 []"


def test_a_mistake_is_answered_without_the_library():
    assert heavy_after("prune", "--data", "digits", "--out", "x", "--ratio", "half") == "2 []"


def test_the_module_runs_as_a_command():
    done = python("", "-m", "infoprune", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "infoprune")


def test_the_help_lists_every_command_with_the_first_line_of_its_docstring(run):
    code, out, _ = run("--help")
    assert code == 0
    listed = " ".join(out.split())
    for name, (_, line) in COMMANDS.items():
        assert f"{name} {line}" in listed
        assert (command_function(name).__doc__ or "").splitlines()[0] == line, name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_every_flag(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    for flag in flags_of(command_function(name)):
        assert flag.flag in out


def test_the_nearest_command_and_option_are_named(run):
    assert "Did you mean 'prune'" in run("prun")[2]
    assert "--ratio" in run("prune", "--ration", "0.5")[2]


def test_completion_knows_commands_options_and_words():
    def completed(words):
        return python("", "-m", "infoprune", _INFOPRUNE_COMPLETE="complete_bash",
                      COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)).stdout.split()  # fmt: skip

    assert {"criteria", "cutoffs"} == set(completed("infoprune c")) - {"compare"}
    assert "--criterion" in completed("infoprune prune --crit")
    assert completed("infoprune prune --direction b") == ["backward", "both"]
    assert completed("infoprune prune --repair b") == ["bn"]


def test_the_reference_of_options_is_the_committed_one():
    assert (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8") == options_table()


def test_env_prints_versions_machine_and_optional_packages(run, tmp_path):
    code, out, _ = run("env", "--json", str(tmp_path / "env.json"))
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    values = {name: value.strip() for name, value in rows.items()}
    assert values["python"].split(".")[:2] == list(map(str, sys.version_info[:2]))
    for name in ("infoprune", "torch", "processor", "threads of torch", "instruction sets", "optional: onnx"):
        assert values[name]
    assert json.loads((tmp_path / "env.json").read_text()) == values


def test_typer_builds_the_group():
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e400", "1" * 400, "True", "null", "{}", "[]",
                     '{"a": NaN}', "{" * 2000, ",", "1,", "0,0,0", "auto", "x:y", "../..", "\x00", "'", "--force"]),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.one_of(st.integers(), st.floats()), max_size=4).map(lambda some: ",".join(map(str, some))),
)  # fmt: skip
THINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
    | st.complex_numbers() | st.just(object()),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some, max_size=3) | st.tuples(some),
    max_leaves=5,
)  # fmt: skip


def test_there_are_many_options():
    assert len(FLAGS) > 150


@pytest.mark.parametrize(("name", "flag"), FLAGS, ids=[f"{name} {flag.flag}" for name, flag in FLAGS])
def test_any_text_for_any_option_is_a_value_in_its_range_or_a_sentence(name, flag):
    @settings(max_examples=40)
    @given(TEXTS)
    def check(text):
        value, allowed = None, flag.option
        try:
            value = flag.value(Path(text) if "path" in str(flag.field.type).lower() else text)
        except InputError as error:
            refusals.append(str(error))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert allowed.ge is None or value >= allowed.ge
            assert allowed.gt is None or value > allowed.gt
            assert allowed.le is None or value <= allowed.le
            assert allowed.lt is None or value < allowed.lt
            assert abs(value) < float("inf")

    refusals = []
    check()
    assert not any("\n" in refusal for refusal in refusals)


CLASSES = sorted({flag.of for _, flag in FLAGS if flag.of is not None}, key=lambda cls: cls.__name__)
PYTHON = [(cls, word) for cls in CLASSES for word in {flag.field.name for _, flag in FLAGS if flag.of is cls}]


@pytest.mark.parametrize(("cls", "word"), sorted(PYTHON, key=str), ids=lambda one: getattr(one, "__name__", one))
def test_anything_for_any_field_is_a_dataclass_or_a_sentence(cls, word):
    from infoprune.declarations.option_values import assembled
    from infoprune.iterative.schedule import LayerPace, Pace
    from infoprune.training.recipe import Recipe

    needed = {
        "DataOptions": {"name": "digits"},
        "RepairOptions": {"method": "bn"},
        "PruneOptions": {} if word in ("ratio", "threshold", "macs", "parameters", "latency") else {"ratio": 0.5},
        "PruningSchedule": {"layers": (LayerPace("a", Pace(plus=1)),), "retraining": Recipe()},
    }.get(cls.__name__, {})

    @settings(max_examples=25)
    @given(THINGS)
    def check(thing):
        try:
            assert isinstance(assembled(cls, {**needed, word: thing}), cls)
        except InputError as error:
            refusals.append(str(error))

    refusals = []
    check()
    assert not any("\n" in refusal for refusal in refusals)
