"""Files appear whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infoprune.errors import InputError
from infoprune.files import check_writable, locked, temporary_of, write_text, written_whole
from infoprune.runs.outputs import outputs


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


def test_files_of_a_run_have_the_mode_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").touch()
    file = tmp_path / "small.safetensors"
    with outputs(file, run="test") as written:
        with written_whole(written.staged(file)) as temporary:
            save_file({"weight": torch.zeros(2)}, temporary)
        written.commit()
    assert file.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


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


def test_nothing_but_a_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, sentence in (("pipe", "a device, a pipe or a socket"), ("dangling", "which does not exist")):
        with pytest.raises(InputError, match=sentence):
            write_text(tmp_path / name, "text", force=True)
    with pytest.raises(InputError, match="a device, a pipe or a socket"):
        check_writable(Path(os.devnull), force=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "dangling").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_link_stands_for_the_file_it_leads_to(tmp_path):
    (tmp_path / "file").write_text("first")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "second", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "second"


def test_a_name_that_leaves_no_room_is_refused(tmp_path):
    long = tmp_path / ("x" * 250)
    with pytest.raises(InputError, match="has 250 bytes: use at most"):
        check_writable(long)
    write_text(tmp_path / ("é" * 107), "it fits")
    with pytest.raises(InputError, match="216 bytes"):
        write_text(tmp_path / ("é" * 108), "it does not")


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "out.csv"
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    mine = str(os.getpid())
    name = temporary_of(path).parent.name
    for folder in (name.replace(mine, ended.stdout.decode().strip()), name.replace(mine, str(os.getppid()))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "out.csv").touch()
        (tmp_path / folder / ".tmp1F00").touch()  # of a writer that writes to another name first
    (tmp_path / ".out.csv.part").touch()
    write_text(path, "whole")
    left = {name.replace(mine, str(os.getppid())), ".out.csv.part", "out.csv"}
    assert {one.name for one in tmp_path.iterdir()} == left


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync") or sync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("rename") or replace(self, to))
    write_text(tmp_path / "out", "text")
    assert done == ["sync", "rename", "sync"]


def test_one_holder_at_a_time(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another run"), locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
