"""Where files are, and that a file is there whole or not at all."""

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from ddcore.support.errors import InputError, MachineError
from ddcore.support.files import absolute, cache_folder, data_root, whole


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
        with pytest.raises(OSError, match="No space left"), whole(file) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")
        assert file.read_text() == "old"
        assert os.listdir(tmp_path) == ["f"]

    def test_what_safetensors_cannot_write_is_the_machine_s_error(self, tmp_path):
        with pytest.raises(MachineError, match="cannot write .*f: .*full"), whole(tmp_path / "f"):
            raise SafetensorError("the disk is full")
        assert os.listdir(tmp_path) == []
