"""Files appear whole or not at all."""

import errno

import pytest

from infoprune.errors import InputError
from infoprune.files import check_writable, write_text, written_whole


def test_a_file_that_exists_is_kept_unless_forced(tmp_path):
    path = tmp_path / "out.json"
    write_text(path, "first")
    with pytest.raises(InputError, match="exists already"):
        write_text(path, "second")
    assert path.read_text() == "first"
    write_text(path, "second", force=True)
    assert path.read_text() == "second"


def test_files_have_the_mode_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").touch()
    with written_whole(tmp_path / "out") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    def fail():
        with written_whole(tmp_path / "out") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def fail():
        with written_whole(tmp_path / "out") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="no space is left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_path_below_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "below")
