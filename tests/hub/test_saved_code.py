# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student whose code was edited, or that a later hf_tc saved, is told of once, and not refreshed without force."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import refused
from student_folders import run_python, tiny_report

from hf_tc.cli.main import main
from hf_tc.hub.saved_code import SavedCode
from hf_tc.modeling.saving import code_files, code_sha256
from hf_tc.modeling.supported_versions import HF_TC_VERSION

LATER = "99.0"
LOAD_TWICE = """
import sys
from transformers import AutoModel, AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1])
AutoModel.from_pretrained(sys.argv[1])
"""
LOAD_SUBFOLDER = """
import sys
from transformers import AutoModelForCausalLM
student = AutoModelForCausalLM.from_pretrained(sys.argv[1], subfolder=sys.argv[2])
assert student.conversion_report.seed == 7
"""


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit(folder: Path) -> None:
    with (folder / "decay.py").open("a") as file:
        file.write("\n# an edit\n")


def told_at_load(folder: Path) -> list[str]:
    result = run_python(LOAD_TWICE, folder, with_hf_tc=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return [line for line in result.stderr.splitlines() if str(folder) in line]


def test_a_student_in_a_subfolder_has_its_report_and_its_code_is_looked_for_there(folder: Path) -> None:
    (folder.parent / "runs").mkdir()
    folder = folder.rename(folder.parent / "runs" / "checkpoint-1")
    tiny_report().save(folder)
    result = run_python(LOAD_SUBFOLDER, folder.parent, folder.name, with_hf_tc=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert str(folder.parent) not in result.stderr


def test_a_folder_without_any_code_is_of_use_with_hf_tc_and_can_be_refreshed(folder: Path) -> None:
    for path in code_files(folder):
        path.unlink()
    assert SavedCode.in_folder(folder).warning is None
    assert main(["refresh", str(folder)]) == 0
    assert SavedCode.in_folder(folder).is_current


def test_a_saved_student_names_its_release_and_its_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["hf_tc_version"] == HF_TC_VERSION
    assert config["code_sha256"] == code_sha256(code_files()) == code_sha256(code_files(folder))
    saved = SavedCode.in_folder(folder)
    assert saved == SavedCode(str(folder), HF_TC_VERSION, is_edited=False, is_current=True)
    assert saved.warning is saved.warning_before_use_elsewhere is None
    assert told_at_load(folder) == []


def test_edited_code_is_told_of_once_and_kept_without_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder)
    (line,) = told_at_load(folder)
    assert f"The code files in {folder} are not those that hf_tc saved" in line
    assert f"hf-tc refresh {folder} --force" in line
    assert "Keep what you need of them, then replace them with --force" in refused(capsys, "refresh", folder)
    assert "# an edit" in (folder / "decay.py").read_text()
    assert main(["refresh", str(folder), "--force"]) == 0
    assert SavedCode.in_folder(folder).is_current


def test_a_student_of_a_later_release_is_told_of_once_and_kept_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_config(folder, hf_tc_version=LATER)
    (line,) = told_at_load(folder)
    assert f"{folder} was saved by hf_tc {LATER}; the installed {HF_TC_VERSION} is older" in line
    assert "pip install -U hf_tc" in line
    assert f"{folder} was saved by hf_tc {LATER}, later than" in refused(capsys, "refresh", folder)
    assert json.loads((folder / "config.json").read_text())["hf_tc_version"] == LATER
    assert main(["refresh", str(folder), "--force"]) == 0
    assert json.loads((folder / "config.json").read_text())["hf_tc_version"] == HF_TC_VERSION


def test_unedited_code_of_an_earlier_release_is_told_of_before_others_run_it_and_refreshed(folder: Path) -> None:
    edit(folder)
    change_config(folder, hf_tc_version="0.0.9", code_sha256=code_sha256(code_files(folder)))
    assert told_at_load(folder) == []
    warning = SavedCode.in_folder(folder).warning_before_use_elsewhere
    assert f"{folder} holds the code of hf_tc 0.0.9, which runs where hf_tc is not installed." in (warning or "")
    assert main(["refresh", str(folder)]) == 0
    assert SavedCode.in_folder(folder).is_current


def test_a_missing_code_file_is_put_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "decay.py").unlink()
    assert "--force" in refused(capsys, "refresh", folder)
    assert main(["refresh", str(folder), "--force"]) == 0
    assert SavedCode.in_folder(folder).is_current


def test_refresh_refuses_what_is_no_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} holds no student" in refused(capsys, "refresh", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert f"{tmp_path} holds no student" in refused(capsys, "refresh", tmp_path)
