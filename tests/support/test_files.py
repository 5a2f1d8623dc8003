"""Where files are, and that a file is there whole or not at all."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from ddcore.support import files
from ddcore.support.errors import InputError, WriteError
from ddcore.support.files import (
    absolute,
    cache_folder,
    check_file,
    check_folder,
    data_root,
    whole,
)


class TestFolders:
    @pytest.fixture(autouse=True)
    def home(self, monkeypatch, tmp_path):
        """A home folder, and none of the variables that name others."""
        for name in ("DDCORE_DATA", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        return tmp_path / "home"

    def test_data_is_below_the_home_folder_s_cache(self, home):
        assert cache_folder() == home / ".cache" / "ddcore"
        assert data_root() == home / ".cache" / "ddcore" / "data"

    def test_xdg_cache_home_names_another_cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert cache_folder() == tmp_path / "cache" / "ddcore"
        assert data_root() == tmp_path / "cache" / "ddcore" / "data"

    def test_ddcore_data_names_the_data_alone(self, monkeypatch, home, tmp_path):
        monkeypatch.setenv("DDCORE_DATA", str(tmp_path / "data"))
        assert data_root() == tmp_path / "data"
        assert cache_folder() == home / ".cache" / "ddcore"

    @pytest.mark.parametrize("name", ["DDCORE_DATA", "XDG_CACHE_HOME"])
    def test_an_empty_variable_is_none(self, monkeypatch, home, name):
        monkeypatch.setenv(name, "")
        assert data_root() == home / ".cache" / "ddcore" / "data"

    def test_without_a_home_folder_one_is_asked_for(self, monkeypatch):
        def unknown():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
        with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
            cache_folder()


class TestNamesOfFolders:
    def test_a_folder_s_path_is_made_absolute(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert absolute("folder:one/../two") == f"folder:{Path.cwd() / 'two'}"

    def test_a_home_folder_is_written_out(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert absolute("folder:~/pictures") == f"folder:{tmp_path / 'pictures'}"

    def test_another_name_stays_as_it_is(self):
        assert absolute("mnist") == "mnist"


class TestBeforeAnythingIsComputed:
    """Whether a place can be written to is found by writing there; nothing is left."""

    PLACES = {
        "there": "there",
        "still to be made": "new/a/b",
        "a link": "link",
    }
    NO_PLACES = {
        "a file": ("file", "Not a directory"),
        "below a file": ("file/x", "Not a directory"),
        "a link to nothing": ("dangling", "No such file or directory"),
        "a name too long": ("x" * 300, "File name too long"),
        "a link to itself": ("loop/x", "Too many levels of symbolic links"),
        "a NUL in the name": ("a\0b", "null byte"),
    }
    NO_FILES = {
        "a folder": ("there", "it is a folder; name a file in it"),
        "in no folder": ("new/x", "No such file or directory; its folder must be there"),
        "below a file": ("file/x", "Not a directory"),
        "a name too long": ("x" * 250, "File name too long"),
    }

    @pytest.fixture(autouse=True)
    def here(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "file").write_text("here")
        (tmp_path / "link").symlink_to("there")
        (tmp_path / "dangling").symlink_to("nowhere")
        (tmp_path / "loop").symlink_to("loop")
        before = sorted(tmp_path.rglob("*"))
        yield tmp_path
        assert sorted(tmp_path.rglob("*")) == before
        assert (tmp_path / "file").read_text() == "here"

    @pytest.mark.parametrize("place", PLACES)
    def test_a_folder_that_takes_files(self, here, monkeypatch, place):
        check_folder(here / self.PLACES[place], "no remedy")
        monkeypatch.chdir(here)
        check_folder(Path(self.PLACES[place]), "no remedy")

    @pytest.mark.parametrize("place", NO_PLACES)
    def test_one_that_does_not_is_named_with_what_to_do(self, here, place):
        name, reason = self.NO_PLACES[place]
        with pytest.raises(InputError) as refusal:
            check_folder(here / name, "set DDCORE_RESULTS")
        said = str(refusal.value)
        assert said.startswith(f"cannot write to {here / name}: ") and reason in said
        assert said.endswith("; set DDCORE_RESULTS")

    def test_a_file_that_can_be_written(self, here, monkeypatch):
        check_file(here / "there" / "new")
        check_file(here / "file")  # it is replaced
        monkeypatch.chdir(here)
        check_file(Path("new"))

    @pytest.mark.parametrize("place", NO_FILES)
    def test_one_that_cannot_is_named_with_what_to_do(self, here, place):
        name, reason = self.NO_FILES[place]
        with pytest.raises(InputError) as refusal:
            check_file(here / name)
        said = str(refusal.value)
        assert said.startswith(f"cannot write {here / name}: ") and reason in said

    def test_a_disk_that_is_full_or_cannot_be_written(self, here, monkeypatch):
        """Where it is full, an empty file can still be made."""

        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full = nullcontext(SimpleNamespace(write=refuse))
        monkeypatch.setattr(files, "TemporaryFile", lambda dir: full)
        monkeypatch.setattr(Path, "write_bytes", refuse)
        for check in (lambda: check_folder(here, "r"), lambda: check_file(here / "new")):
            with pytest.raises(InputError, match=f"{here}.*No space left on device"):
                check()


class TestWholeFiles:
    def test_the_file_appears_when_it_is_complete(self, tmp_path):
        file = tmp_path / "f"
        with whole(file) as part:
            part.write_text("new")
            assert not file.exists()
        assert file.read_text() == "new"
        assert os.listdir(tmp_path) == ["f"]

    def test_where_writing_fails_the_old_file_stays(self, tmp_path):
        file = tmp_path / "f"
        file.write_text("old")
        said = f"cannot write {file}: No space left on device; free space there"
        with pytest.raises(WriteError, match=said), whole(file) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")
        assert file.read_text() == "old"
        assert os.listdir(tmp_path) == ["f"]

    def test_what_safetensors_cannot_write_is_the_machine_s_error(self, tmp_path):
        with pytest.raises(WriteError, match="cannot write .*f: .*full"), whole(tmp_path / "f"):
            raise SafetensorError("the disk is full")
        assert os.listdir(tmp_path) == []
