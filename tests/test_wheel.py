# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The wheel holds what users need and nothing else, and asks for every package that it imports."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# What a module is called, where the package that brings it is called otherwise.
PACKAGES = {"fla": "flash-linear-attention", "huggingface_hub": "huggingface-hub", "yaml": "pyyaml"}
# Imported where they are used alone, and asked for by extras.
OPTIONAL = {
    "triton",
    "deepspeed",
    "datasets",
    "pyarrow",
    "lm_eval",
    "bitsandbytes",
    "fastapi",
    "uvicorn",
    "trl",
    "vllm",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")  # built beside a checkout
    for name in ("hf_tc", "modeling", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_every_module_and_what_they_read(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_tc").rglob("*.py")}
    ours |= {f"hf_tc/modeling/{path.name}" for path in (ROOT / "modeling").glob("*.py")}
    assert ours <= inside
    assert {"hf_tc/py.typed", "hf_tc/model_cards/template.md", "hf_tc/assets/tiny_teacher/config.json"} <= inside
    code = {name for name in inside if name.endswith(".py")}
    assert code == ours | {"hf_tc/model_cards/__init__.py"}


def test_it_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"hf_tc"}
    assert not [name for name in wheel.namelist() if "research_log" in name or "make_tiny" in name or "/tests/" in name]
    assert sum(info.file_size for info in wheel.infolist()) < 12_000_000


def test_it_asks_for_all_that_it_imports(wheel: zipfile.ZipFile) -> None:
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    asked = {Requirement(line).name.lower().replace("_", "-") for line in lines if "extra ==" not in line}
    imported: set[str] = set()
    for name in wheel.namelist():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(wheel.read(name))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add((node.module or "").split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"hf_tc"} - OPTIONAL
    assert {PACKAGES.get(name, name) for name in others} <= asked


def test_its_page_links_to_no_file_that_is_not_there(wheel: zipfile.ZipFile) -> None:
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    for line in ("License: Apache-2.0", "License-Expression: Apache-2.0"):
        if line in metadata:
            break
    else:
        pytest.fail("no licence")
    assert "](" not in metadata.replace("](https://", "")
    assert "hf-tc demo" in metadata
