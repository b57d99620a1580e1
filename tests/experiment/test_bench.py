"""The board from files to a folder: a later run adds rows, kills, other settings, processes, the command line."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from infoprune import cli, data
from infoprune.board import BoardOptions
from infoprune.errors import InputError
from infoprune.experiment import bench as benches
from infoprune.experiment import board_files
from infoprune.experiment.bench import Job, bench, read_board, write_page
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.train import train as train_network
from infoprune.files import locked
from infoprune.training.recipe import FINE_TUNING, Recipe

OPTIONS = BoardOptions(criteria=("l2",), repairs=("bn",), budgets=(0.5,), sharing=("uniform",), seeds=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint of the digits network, trained for a moment."""
    out = tmp_path_factory.mktemp("bench") / "base.safetensors"
    recipe = Recipe(epochs=2, learning_rate=0.1, precision="32-true")
    train_network(NetworkOptions("digits"), DataOptions("digits", batch_size=64), TuneOptions(recipe), out=out)
    return out


@pytest.fixture
def job(base, tmp_path):
    images = DataOptions("digits", batch_size=64, calibration=60)
    return Job(NetworkOptions(weights=base), images, OPTIONS, tmp_path / "board", 100, "cpu")


@pytest.fixture
def measured_cells(monkeypatch):
    """The cells that are measured, one after the other."""
    seen = []
    kept = board_files.append

    def append(folder, one):
        seen.append(one)
        kept(folder, one)

    monkeypatch.setattr(board_files, "append", append)
    return seen


def lines_of(job):
    return (job.folder / "rows.jsonl").read_text().splitlines()


def test_a_board_of_the_digits(job):
    board = bench(job)
    assert [(row.criterion, row.repair) for row in board.rows] == [
        (criterion, repair) for criterion in ("random", "l1", "l2") for repair in ("none", "bn")
    ]
    assert board.base.images == 100
    assert all(row.macs <= 0.5 * board.base.macs for row in board.rows)
    assert board.failures == {}
    again = read_board(job.folder)
    assert (again.base, again.rows) == (board.base, board.rows)
    settings = json.loads((job.folder / "settings.json").read_text())
    assert settings["conditions"]["number of test images"] == 100
    assert settings["machine"]["device"] == "cpu"


def test_a_second_run_measures_only_what_is_new(job, measured_cells):
    first = bench(job)
    measured_cells.clear()
    assert bench(job).rows == first.rows
    assert measured_cells == []
    more = replace(
        job, options=replace(OPTIONS, repairs=("bn", "merge"), criteria=("l2", "variance"), budgets=(0.5, 0.7))
    )
    board = bench(more)
    assert len(board.rows) == 4 * 3 * 2
    rows = [one for one in measured_cells if isinstance(one, type(first.rows[0]))]
    assert len(rows) == 4 * 3 * 2 - len(first.rows)
    scored = [one.criterion for one in measured_cells if hasattr(one, "importances")]
    assert scored == ["variance"]
    # What was asked for first is still answered with that alone.
    assert bench(job).rows == first.rows


def test_a_run_that_was_killed_goes_on(job, measured_cells, monkeypatch):
    kept = board_files.append

    def killed(folder, one):
        kept(folder, one)
        if len(measured_cells) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(board_files, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        bench(job)
    monkeypatch.setattr(board_files, "append", kept)
    # The kill came while a line was being written.
    with (job.folder / "rows.jsonl").open("a") as file:
        file.write('{"kind": "row", "criterion": "l2", "se')
    board = bench(job)
    assert len(board.rows) == 6
    assert len(lines_of(job)) == 1 + 3 + 6
    assert all(json.loads(line) for line in lines_of(job))


def test_rows_that_failed_are_tried_again(job):
    bench(job)
    lines = lines_of(job)
    last = json.loads(lines[-1])
    failed = {**dict.fromkeys(last), **{name: last[name] for name in ("criterion", "seed", "sharing", "budget")},
              "kind": "row", "repair": last["repair"], "reason": "RuntimeError: no memory"}  # fmt: skip
    (job.folder / "rows.jsonl").write_text("\n".join([*lines[:-1], json.dumps(failed)]) + "\n")
    assert read_board(job.folder).failures == {last["criterion"]: "RuntimeError: no memory"}
    board = bench(job)
    assert board.failures == {}
    assert board.rows[-1].accuracy == last["accuracy"]


def test_another_protocol_is_refused(job):
    bench(job)
    lines = lines_of(job)
    for other, words in (
        (replace(job, test_images=50), "another number of test images (100, now 50)"),
        (replace(job, images=replace(job.images, calibration=40)), "another number of calibration images"),
        (replace(job, network=NetworkOptions("digits")), "another network"),
        (replace(job, options=replace(OPTIONS, skip=("features.0",))), "another skip (layers)"),
        (replace(job, options=replace(OPTIONS, bf16=True)), "another precision of the accuracy"),
    ):
        with pytest.raises(InputError, match="is the state of a run with") as refused:
            bench(other)
        assert words in str(refused.value)
    assert lines_of(job) == lines


def test_a_pattern_that_names_nothing_leaves_the_folder_to_a_corrected_one(job):
    with pytest.raises(InputError, match="unknown layer 'featurs.0'"):
        bench(replace(job, options=replace(OPTIONS, skip=("featurs.0",))))
    assert not any(job.folder.iterdir())
    board = bench(replace(job, options=replace(OPTIONS, skip=("features.0",), criteria=("l1",))))
    assert board.failures == {}


def test_a_folder_with_something_else_in_it_is_refused(job):
    job.folder.mkdir()
    (job.folder / "letter.txt").write_text("Dear")
    with pytest.raises(InputError, match="holds 'letter.txt' and no board"):
        bench(job)
    with pytest.raises(InputError, match="holds no board"):
        read_board(job.folder)
    (job.folder / "letter.txt").rename(job.folder.with_name("file"))
    with pytest.raises(InputError, match="is a file: name a folder"):
        bench(replace(job, folder=job.folder.with_name("file")))


def test_damaged_rows_are_refused_in_one_sentence(job):
    bench(job)
    rows = job.folder / "rows.jsonl"
    for wrong in ('{"kind": "row", "criterion": 3}', "[" * 100_000, "not JSON"):
        rows.write_text("\n".join([*lines_of(job)[:3], wrong]) + "\n")
        with pytest.raises(InputError, match="line 4 of .* is damaged"):
            read_board(job.folder)


def test_one_run_at_a_time(job):
    with locked(job.folder), pytest.raises(InputError, match="being written by another run"):
        bench(job)


def test_processes_measure_the_same_rows(job):
    alone = bench(job)
    together = bench(replace(job, folder=job.folder.with_name("together")), processes=2)
    assert [(row.cell, row.accuracy, row.macs) for row in together.rows] == [
        (row.cell, row.accuracy, row.macs) for row in alone.rows
    ]


def test_fine_tuning_is_measured_beside_the_repair(job):
    options = replace(OPTIONS, criteria=("random",), repairs=("none",), fine_tune_epochs=1, fine_tune_rate=0.05)
    board = bench(replace(job, options=options))
    assert all(row.tuned > row.accuracy for row in board.rows)


def test_the_board_fine_tunes_at_the_rate_of_tune():
    assert BoardOptions().fine_tune_rate == FINE_TUNING.learning_rate


def test_fine_tuning_on_some_of_the_images_is_another_board(job):
    options = replace(OPTIONS, criteria=("random",), repairs=("none",), fine_tune_epochs=1, fine_tune_images=64)
    board = bench(replace(job, options=options))
    assert all(row.tuned is not None for row in board.rows)
    with pytest.raises(InputError, match="fine-tuning"):
        bench(replace(job, options=replace(options, fine_tune_images=32)))


def test_more_fine_tuning_images_than_there_are_is_said_at_once(job):
    options = replace(OPTIONS, criteria=("random",), repairs=("none",), fine_tune_epochs=1, fine_tune_images=10**6)
    with pytest.raises(InputError, match="images"):
        bench(replace(job, options=options))
    assert not (job.folder / "rows.jsonl").exists()


def test_a_data_set_without_test_images_is_divided_into_parts_that_share_none(base, tmp_path):
    source = data.open_source("digits", None)
    whole = replace(source, test=source.train)
    images = DataOptions("digits", calibration=30)
    job = Job(NetworkOptions(weights=base), images, replace(OPTIONS, seeds=2), tmp_path / "board")
    count, sample, train, test = benches._images(whole, job)
    assert (count, len(sample(0)), len(sample(1)), len(train), len(test)) == (30, 30, 30, 60, len(source.train) - 60)
    parts = torch.cat([sample(0).images, sample(1).images, test.images]).flatten(1)
    assert parts.sum(0).equal(source.train.images.flatten(1).sum(0))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``infoprune bench`` in an empty folder and return its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["infoprune", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return call


def test_the_command_prints_a_table_and_writes_a_page(command, base, tmp_path):
    pytest.importorskip("plotly")
    some = ("--weights", base, "--data", "digits", "--calibration", 60, "--criteria", "l2,hrel", "--repairs", "bn",
            "--budgets", "0.5", "--seeds", 1, "--out", "board", "--device", "cpu")  # fmt: skip
    code, out, err = command(*some)
    assert code == 0, err
    for word in ("50 % of the MACs, uniform", "50 % of the MACs, global", "no pruning", "random", "l1", "l2", "hrel"):
        assert word in out
    assert out.splitlines()[-1] == "page: board/board.html"
    assert "+ bn" in (tmp_path / "board" / "board.html").read_text()
    rows = (tmp_path / "board" / "rows.jsonl").read_text()
    assert command(*some)[0] == 0
    assert (tmp_path / "board" / "rows.jsonl").read_text() == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--criteria", "l3"), "unknown criterion 'l3'"),
        (("--budgets", "half"), "--budgets takes numbers"),
        (("--processes", "0"), "--processes takes a whole number"),
        (("--sharing", "fair"), "unknown sharing 'fair'"),
    ],
)
def test_the_command_refuses_wrong_input_in_one_sentence(command, base, tmp_path, arguments, message):
    code, out, err = command("--weights", base, "--data", "digits", "--out", "board", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "board").exists()


def test_the_page_is_written_for_what_was_asked(job):
    pytest.importorskip("plotly")
    page = write_page(job, bench(job)).read_text()
    assert "3 criteria under one protocol, 1 seed." in page
    assert 'class="this"><th scope="row">random' in page


def test_rows_do_not_depend_on_what_was_measured_before(job):
    torch.manual_seed(5)
    one = bench(job)
    torch.manual_seed(6)
    other = bench(
        replace(job, options=replace(OPTIONS, criteria=("l2", "variance")), folder=job.folder.with_name("two"))
    )
    by_cell = {row.cell: row.accuracy for row in other.rows}
    assert all(by_cell[row.cell] == row.accuracy for row in one.rows)
