"""The files of a run appear together, and only its own are replaced after a kill."""

import pytest

from infoprune.errors import InputError
from infoprune.runs import outputs as module
from infoprune.runs.outputs import outputs


class KilledError(BaseException):
    """A kill: nothing cleans up after it."""


def write(folder, text, *, run="test", force=False, names=("a", "b")):
    with outputs(*(folder / name for name in names), run=run, force=force) as written:
        for file in written.files:
            written.staged(file).write_text(text)
        written.commit()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_within_commit(folder, monkeypatch, after):
    """Leave a folder as a kill does after a number of files were put in place."""
    put, done = module.put_in_place, []

    def kill(temporary, path):
        if len(done) == after:
            raise KilledError
        done.append(path)
        put(temporary, path)

    with monkeypatch.context() as patched:
        patched.setattr(module, "put_in_place", kill)
        with pytest.raises(KilledError):
            write(folder, "first")


def test_all_files_appear_at_once_and_nothing_else_stays(tmp_path):
    write(tmp_path, "first")
    assert names(tmp_path) == ["a", "b"]
    with pytest.raises(InputError, match="'.*a' exists already"):
        write(tmp_path, "second")
    write(tmp_path, "second", force=True)
    assert (tmp_path / "b").read_text() == "second"


def test_an_error_before_the_end_leaves_what_was_there(tmp_path):
    write(tmp_path, "first")

    def fail():
        with outputs(tmp_path / "a", tmp_path / "b", run="test", force=True) as written:
            written.staged(tmp_path / "a").write_text("second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_text() == "first"


@pytest.mark.parametrize("after", [0, 1])
def test_the_same_run_replaces_what_it_wrote_before_a_kill(tmp_path, monkeypatch, after):
    killed_within_commit(tmp_path, monkeypatch, after)
    assert (tmp_path / "a").exists() == bool(after)
    write(tmp_path, "first")
    assert names(tmp_path) == ["a", "b"]


def test_a_file_that_somebody_wrote_since_is_kept(tmp_path, monkeypatch):
    killed_within_commit(tmp_path, monkeypatch, 1)
    (tmp_path / "a").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path, "second")
    assert (tmp_path / "a").read_text() == "precious"


def test_another_kind_of_run_replaces_nothing(tmp_path, monkeypatch):
    killed_within_commit(tmp_path, monkeypatch, 1)
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path, "second", run="another")
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path, "second", names=("a",))


def test_one_file_for_two_outputs_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="is named twice"),
        outputs(tmp_path / "a", tmp_path / "x/../a", run="test"),
    ):
        pass
    assert names(tmp_path) in ([], ["x"])


def test_files_of_an_earlier_run_that_this_one_does_not_write_are_removed(tmp_path):
    write(tmp_path, "first")
    with outputs(tmp_path / "a", tmp_path / "b", run="test", force=True) as written:
        written.staged(tmp_path / "a").write_text("second")
        written.commit()
    assert names(tmp_path) == ["a"]
