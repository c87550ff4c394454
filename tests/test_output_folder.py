# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Refusals of output folders, each of which leaves nothing behind."""

from pathlib import Path

import pytest

from hf_tc.output_folder import check_free_space, check_writable, refuse_occupied


def test_an_absent_or_empty_folder_is_free(tmp_path: Path) -> None:
    refuse_occupied(tmp_path)
    refuse_occupied(tmp_path / "absent")


def test_a_file_or_a_full_folder_is_occupied(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for occupied in (file, tmp_path):
        with pytest.raises(ValueError, match=f"{occupied} exists"):
            refuse_occupied(occupied)


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
