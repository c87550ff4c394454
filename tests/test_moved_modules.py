# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Old names of modules lead to the present ones, with a note."""

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
from fresh_processes import run_code

import hf_tc
from hf_tc.moved_modules import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_every_new_name_is_there_and_no_old_one(old: str) -> None:
    assert find_spec(f"hf_tc.{MOVED[old]}").origin.endswith(".py")
    assert find_spec(f"hf_tc.{old}").origin is None


def test_an_old_name_is_the_present_module() -> None:
    with pytest.warns(FutureWarning, match=r"hf_tc\.calibration\.data is now hf_tc\.data\.token_blocks"):
        from hf_tc.calibration.data import token_blocks
    assert token_blocks is import_module("hf_tc.data.token_blocks").token_blocks
    assert sys.modules["hf_tc.calibration.data"] is sys.modules["hf_tc.data.token_blocks"]
    with pytest.warns(FutureWarning, match="hf_tc.planning.plan"):
        import_module("hf_tc.conversion_plan")
    assert import_module("hf_tc.planning.plan").__spec__.name == "hf_tc.planning.plan"


def test_names_from_the_folder_of_teachers() -> None:
    code = (
        "from hf_tc.teachers import build_student, check_teacher\n"
        "from hf_tc.teachers.new_student import build_student as same\n"
        "assert build_student is same and callable(check_teacher)"
    )
    assert run_code(code).returncode == 0


@pytest.mark.parametrize("name", hf_tc.PUBLIC)
def test_no_old_name_hides_a_public_name(name: str) -> None:
    """Importing a module puts it into its package, in place of what the package calls the same."""
    assert find_spec(f"hf_tc.{name}") is None


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("hf_tc.no_such_module")
