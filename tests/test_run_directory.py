"""A run directory is made once; a file in it is whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secure_fu.errors import RunDirectoryError
from secure_fu.run_directory import RunDirectory


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "a" / "b")
    assert directory.path == tmp_path / "a" / "b"
    assert (directory.path / "models").is_dir()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["result.json", ".hidden"])
def test_a_folder_with_anything_in_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunDirectoryError, match="holds files already; expected a new or empty folder") as caught:
        RunDirectory(tmp_path)
    assert str(caught.value).startswith(f"--out is {str(tmp_path)!r}")
    assert files(tmp_path) == {name}


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="holds files already"):
        RunDirectory(tmp_path / "run")


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_or_what_lies_below_one_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError, match="a file or lies below one"):
        RunDirectory(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory(tmp_path / "run")


def test_a_name_too_long_for_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory(tmp_path / ("x" * 300))


def test_texts_are_utf8_and_replaced_whole(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for text in ("first, and longer", "ε ≤ 8"):
        directory.write_text("note.txt", text)
        assert (tmp_path / "note.txt").read_bytes() == text.encode()
    assert files(tmp_path) == {"note.txt"}


def test_json_refuses_what_json_has_not(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json("result.json", {"a": [1.5, None, "ü"]})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": [1.5, None, "ü"]}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            directory.write_json("result.json", {"a": value})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": [1.5, None, "ü"]}


def test_models_are_float32_and_contiguous(tmp_path: Path) -> None:
    weight = torch.arange(6, dtype=torch.float64).reshape(2, 3).T
    RunDirectory(tmp_path).write_model("original", {"0.weight": weight})
    loaded = load_file(tmp_path / "models" / "original.safetensors")
    assert torch.equal(loaded["0.weight"], weight.float())
    assert files(tmp_path) == {"models/original.safetensors"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_text("note.txt", "old")

    def fail(_descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    expected = RunDirectoryError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        directory.write_text("note.txt", "new")
    with pytest.raises(expected):
        directory.write_model("original", {"weight": torch.zeros(3)})
    if isinstance(error, OSError):
        assert "note.txt cannot be written (No space left on device)" in str(caught.value)
    assert (tmp_path / "note.txt").read_text() == "old"
    assert files(tmp_path) == {"note.txt"}
