# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The examples run as they are, with few tokens and steps, one after the other as a reader would run them.

On a tiny teacher: that the packaged one, which they take by default, is converted too is for the test of `hf-tc demo`.
"""

import json
import re
from pathlib import Path

import pytest
from conversion_inputs import teacher_folder, text_file
from fresh_processes import run_script
from optional_packages import needs_extra
from servers import free_port

EXAMPLES = Path(__file__).parent
NOTEBOOK = EXAMPLES / "tour.ipynb"
TINY = ("--teacher", "teacher", "--data", "text.txt")


def run(script: str, *arguments: str, folder: Path) -> str:
    """What an example prints on stdout; it runs in the folder, as its own process."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = run_script(EXAMPLES / script, *arguments, folder=folder, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a student, which the example of the conversion wrote, and what that printed."""
    path = tmp_path_factory.mktemp("examples")
    teacher_folder(path / "teacher")
    text_file(path / "text.txt", letters=20_000)
    few = ("--tokens", "1024", "--steps", "2")
    (path / "printed").write_text(run("convert.py", *TINY, *few, folder=path))
    return path


def test_convert(folder: Path) -> None:
    retained, recurrent, text = re.fullmatch(
        r"Layers with attention: \[(.*)\], with Gated DeltaNet: \[(.*)\]\n(.*)\n",
        (folder / "printed").read_text(),
        re.DOTALL,
    ).groups()
    assert sorted(map(int, f"{retained}, {recurrent}".split(","))) == [0, 1, 2]
    assert len(text) > len("It was a dark night, and the old man")
    assert (folder / "student" / "conversion_report.md").exists()


def test_distil(folder: Path) -> None:
    printed = run("distil.py", *TINY, "--tokens", "16384", folder=folder)
    kl_before, kl_after = map(float, re.search(r"KL to the teacher (\S+) -> (\S+) nats", printed).groups())
    assert kl_after < kl_before
    assert (folder / "distilled" / "config.json").exists()


@needs_extra("serve", "fastapi", "uvicorn", "openai", "pydantic", "requests")
def test_serve(folder: Path) -> None:
    prompt = "The ship"
    printed = run("serve.py", "--prompt", prompt, "--tokens", "8", "--port", str(free_port()), folder=folder)
    assert printed.strip().startswith(prompt)
    assert len(printed.strip()) > len(prompt)


@needs_extra("test", "nbclient", "ipykernel")
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tiny = f"TEACHER = {str(teacher_folder(tmp_path / 'teacher'))!r}"
    notebook.cells[1].source, replaced = re.subn(r"(?m)^TEACHER = .*", tiny, notebook.cells[1].source)
    assert replaced == 1
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert any("Evaluation(perplexity=" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert any(output.get("text", "").startswith("teacher: It was a dark night") for output in outputs)


def test_the_notebook_is_kept_without_what_it_showed() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
