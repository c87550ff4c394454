# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""An unsupported Transformers is named in one line, with hf_tc and without it, by bounds that stand in one place."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from student_folders import run_python, tiny_student

import hf_tc
import hf_tc.modeling.supported_versions as releases

ROOT = Path(__file__).parents[2]
# The first import of processing_utils puts another `transformers` in the place of the first one.
AS_OF = "import sys, transformers.processing_utils; sys.modules['transformers'].__version__ = sys.argv[1]\n"
IMPORT = AS_OF + "import hf_tc"
USE_TWICE = "import hf_tc; print('imported', file=sys.stderr); hf_tc.HybridGDNConfig(); hf_tc.HybridGDNConfig()"
LOAD_TWICE = """
from transformers import AutoConfig, AutoModelForCausalLM
AutoConfig.from_pretrained(sys.argv[2], trust_remote_code=True)
AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("students") / "student"
    tiny_student().save_pretrained(path)
    return path


def minor_after(version: str, step: int) -> str:
    major, minor = version.split(".")
    return f"{major}.{int(minor) + step}"


TOO_OLD = f"{minor_after(releases.OLDEST_TRANSFORMERS, -1)}.2"
TOO_NEW = f"{minor_after(releases.NEWEST_TRANSFORMERS, 1)}.0"
REFUSAL = f"needs Transformers {releases.OLDEST_TRANSFORMERS} or newer, this is {TOO_OLD}. Upgrade: pip install"
WARNING = (
    f"hf_tc {releases.HF_TC_VERSION} was tested with Transformers {releases.OLDEST_TRANSFORMERS} to "
    f"{releases.NEWEST_TRANSFORMERS}, this is {TOO_NEW}; the self-check before a conversion decides whether it works."
)


def run(code: str, *arguments: str | Path, with_hf_tc: bool) -> tuple[int, str]:
    """(exit status, stderr); `with_hf_tc` leaves the import to the code, after the release was set."""
    if with_hf_tc:
        code = code.replace("import hf_tc", "del sys.meta_path[0]; import hf_tc", 1)  # the blocker
    result = run_python(code, *arguments, with_hf_tc=False)
    return result.returncode, result.stderr


def test_setup_asks_for_the_releases_that_were_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    assert given["version"] == releases.HF_TC_VERSION == hf_tc.__version__
    (requirement,) = (item for item in given["install_requires"] if item.startswith("transformers"))
    allowed = SpecifierSet(requirement.removeprefix("transformers"))
    for version in (f"{releases.OLDEST_TRANSFORMERS}.0", f"{releases.NEWEST_TRANSFORMERS}.9"):
        assert Version(version) in allowed
    for version in (TOO_OLD, TOO_NEW, "6.0.0"):
        assert Version(version) not in allowed


def test_a_transformers_that_is_too_old_is_refused_in_one_line(folder: Path) -> None:
    for code, with_hf_tc in ((IMPORT, True), (AS_OF + LOAD_TWICE, False)):
        status, stderr = run(code, TOO_OLD, folder, with_hf_tc=with_hf_tc)
        assert status == 1
        assert stderr.splitlines()[-1].startswith("ImportError: ")
        assert REFUSAL in stderr.splitlines()[-1]


def test_a_transformers_newer_than_tested_is_told_of_once_at_first_use(folder: Path) -> None:
    status, stderr = run(AS_OF + USE_TWICE, TOO_NEW, with_hf_tc=True)
    assert status == 0, stderr
    assert WARNING not in stderr.split("imported")[0]
    assert stderr.count(WARNING) == 1
    status, stderr = run(AS_OF + LOAD_TWICE, TOO_NEW, folder, with_hf_tc=False)
    assert status == 0, stderr
    assert stderr.count(WARNING) == 1


def test_tested_releases_are_not_remarked_on(folder: Path) -> None:
    for version in (f"{releases.OLDEST_TRANSFORMERS}.0", f"{releases.NEWEST_TRANSFORMERS}.7"):
        status, stderr = run(AS_OF + USE_TWICE, version, with_hf_tc=True)
        assert status == 0, stderr
        assert "was tested with" not in stderr


def test_the_drift_guard_proposes_the_line_to_change() -> None:
    propose = runpy.run_path(str(ROOT / ".ci" / "proposed_bound"))["proposal"]
    number = next(
        number
        for number, line in enumerate((ROOT / "modeling" / "supported_versions.py").read_text().splitlines(), start=1)
        if line.startswith("NEWEST_TRANSFORMERS")
    )
    place, next_minor = f"modeling/supported_versions.py:{number}", minor_after(releases.NEWEST_TRANSFORMERS, 1)
    assert f'{place} becomes: NEWEST_TRANSFORMERS = "{next_minor}"' in propose(TOO_NEW)
    assert f"{place} stays as it is" in propose(f"{releases.NEWEST_TRANSFORMERS}.3")
