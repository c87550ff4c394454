# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Refusals of output folders, each of which leaves nothing behind, and results that appear whole."""

from pathlib import Path

import pytest

from hf_tc.resume.unfinished_work import WorkFolder, check_free_space, check_not_occupied, check_writable


def test_an_absent_or_empty_folder_is_free(tmp_path: Path) -> None:
    check_not_occupied(tmp_path)
    check_not_occupied(tmp_path / "absent")


def test_a_file_or_a_full_folder_is_occupied(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for occupied in (file, tmp_path):
        with pytest.raises(ValueError, match=f"{occupied} exists"):
            check_not_occupied(occupied)


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_nothing_can_be_made_below_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable(file / "out")


def test_space_is_counted_where_the_folder_will_be(tmp_path: Path) -> None:
    check_free_space(tmp_path / "absent", 1)
    with pytest.raises(ValueError, match=r"needs 1048576\.00 GiB, .* are free there"):
        check_free_space(tmp_path / "absent", 2**50)


def test_a_result_appears_with_everything_and_nothing_else_is_left(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "deep" / "out")
    assert not work.has_result({"seed": 0})
    assert list(tmp_path.iterdir()) == []
    (work.folder / "result").mkdir(parents=True)
    (work.folder / "result" / "of an earlier try").touch()
    (work.folder / "checkpoint-1").mkdir()
    work.save(lambda folder: (folder / "a").write_text("a"), {"seed": 0})
    assert not work.out.exists()
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        WorkFolder(work.out).has_result({"seed": 1})
    again = WorkFolder(work.out)
    assert again.has_result({"seed": 0})
    again.publish()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["deep", "deep/out", "deep/out/a"]
    with pytest.raises(ValueError, match="not empty"):
        again.has_result({"seed": 0})


def test_what_was_cut_off_while_saving_is_no_result(tmp_path: Path) -> None:
    def cut_off(folder: Path) -> None:
        (folder / "a").touch()
        raise KeyboardInterrupt

    work = WorkFolder(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        work.save(cut_off, {})
    assert not WorkFolder(work.out).has_result({})


def test_a_result_is_put_into_a_folder_that_cannot_be_renamed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = WorkFolder(tmp_path / "out")
    work.save(lambda folder: (folder / "a").write_text("a"), {"seed": 0})

    def mounted(*args: object) -> None:
        raise OSError("Device or resource busy")

    monkeypatch.setattr(Path, "rename", mounted)
    work.out.mkdir()
    (work.out / "a").write_text("cut off")
    assert WorkFolder(tmp_path / "out").has_result({"seed": 0})
    work.publish()
    assert {path.name: path.read_text() for path in work.out.iterdir()} == {"a": "a"}
    assert not work.folder.exists()


def test_a_result_is_not_mixed_with_what_stands_in_its_place(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "out")
    work.save(lambda folder: (folder / "a").write_text("a"), {})
    work.out.mkdir()
    (work.out / "mine").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        work.publish()
    assert [path.name for path in work.out.iterdir()] == ["mine"]
    assert (work.folder / "result" / "a").exists()
