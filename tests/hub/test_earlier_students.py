# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students that earlier releases saved say what they said: with hf_tc at once, without it after `hf-tc refresh`."""

import json
from pathlib import Path

import pytest
from earlier_students import CHECK, EARLIER, earlier_student, expected_of
from fake_hub import FakeHub
from optional_packages import needs_extra
from student_folders import run_python

from hf_tc.cli.main import main
from hf_tc.hub.folder_checks import check_student_folder
from hf_tc.hub.saved_code import SavedCode
from hf_tc.modeling.saving import AUTO_MAP, code_files
from hf_tc.modeling.supported_versions import HF_TC_VERSION

REPO = "some-user/earlier-student"
PUSH = "import sys; from hf_tc.hub.push import push_folder; push_folder(sys.argv[1], sys.argv[2])"
# Without the server itself, whose command comes last.
SERVE = """
import sys, transformers.processing_utils, transformers.cli.transformers as command
from hf_tc.hub.serving import serve
command.app = lambda arguments, prog_name: print(arguments)
serve(sys.argv[1])
"""
REFRESH = "import sys; from hf_tc.cli.main import main; sys.exit(main(['refresh', *sys.argv[1:]]))"

GONE = {"head_shard.py", "recurrent_mask.py"}  # files of that code that have other names now


@pytest.mark.parametrize("name", EARLIER)
def test_with_hf_tc_its_own_classes_load_them(name: str, tmp_path: Path) -> None:
    folder = earlier_student(name, tmp_path / "student")
    result = run_python(CHECK, folder, expected_of(name), "trust", "no trust", with_hf_tc=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["hf_tc.modeling.modeling_hybrid_gdn"] * 2
    assert "refresh" not in result.stderr  # nothing is amiss where hf_tc is installed


@pytest.mark.parametrize("name", EARLIER)
def test_without_hf_tc_they_load_after_a_refresh(name: str, tmp_path: Path) -> None:
    folder = earlier_student(name, tmp_path / "student")
    (folder / "notes.py").write_text("# not code of the student")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["refresh", str(folder)]) == 0
    check_student_folder(folder)
    assert SavedCode.in_folder(folder) == SavedCode(str(folder), HF_TC_VERSION, is_edited=False, is_current=True)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name for path in code_files(folder)} == {path.name for path in code_files()}
    assert not set(after) & GONE
    code = {path.name for path in code_files()} | GONE
    assert all(after[path.name] == path.read_bytes() for path in code_files())
    assert {n: data for n, data in after.items() if n not in code | {"config.json"}} == {
        n: data for n, data in before.items() if n not in code | {"config.json"}
    }
    config, old = json.loads(after["config.json"]), json.loads(before["config.json"])
    assert (config.pop("hf_tc_version"), config.pop("auto_map")) == (HF_TC_VERSION, AUTO_MAP)
    assert len(config.pop("code_sha256")) == 64
    assert config == {field: value for field, value in old.items() if field != "auto_map"}
    result = run_python(CHECK, folder, expected_of(name), "trust", with_hf_tc=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("transformers_modules.")


def test_a_second_refresh_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = earlier_student(EARLIER[0], tmp_path / "student")
    assert main(["refresh", str(folder)]) == 0
    assert "saving.py" in capsys.readouterr().err
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["refresh", str(folder)]) == 0
    assert f"has the code of hf_tc {HF_TC_VERSION} already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_a_repository_is_refreshed_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    folder = earlier_student(EARLIER[-1], tmp_path / "student")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A module that later releases have no more: the code of then imported it.
    files["memory.py"] = b"# of then\n"
    files["decay.py"] += b"\nfrom .memory import *\n"
    hub.repos[REPO] = dict(files)
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    for _ in range(2):
        result = run_python(REFRESH, REPO, with_hf_tc=True, **environment)
        assert result.returncode == 0, result.stderr[-3000:]
    commits = [request for request in hub.requests if request.startswith("POST") and "/commit/" in request]
    assert len(commits) == 1
    downloads = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert downloads == {name for name in files if name.endswith(".py")} | {"config.json"} | {
        path.name for path in code_files()
    }
    received = hub.repos[REPO]
    assert received.keys() == (files.keys() - {"memory.py"} - GONE) | {path.name for path in code_files()}
    assert all(received[path.name] == path.read_bytes() for path in code_files())
    kept = files.keys() - {path.name for path in code_files()} - {"memory.py", "config.json"} - GONE
    assert all(received[name] == files[name] for name in kept)
    assert json.loads(received["config.json"])["hf_tc_version"] == HF_TC_VERSION


@needs_extra("serve", "fastapi", "uvicorn", "openai", "pydantic", "requests")
def test_serving_an_earlier_student_says_that_its_code_is_old(tmp_path: Path) -> None:
    folder = earlier_student(EARLIER[0], tmp_path / "student")
    result = run_python(SERVE, folder, with_hf_tc=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("['serve'")
    assert result.stderr.count(f"{folder} holds the code of an earlier hf_tc") == 1


def test_push_of_an_earlier_student_says_that_its_code_is_old(hub: FakeHub, tmp_path: Path) -> None:
    folder = earlier_student(EARLIER[0], tmp_path / "student")
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    result = run_python(PUSH, folder, REPO, with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    line = f"{folder} holds the code of an earlier hf_tc, which runs where hf_tc is not installed. To replace it"
    assert result.stderr.count(line) == 1
    assert f"hf-tc refresh {folder}" in result.stderr
