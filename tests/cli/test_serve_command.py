# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc serve` starts Transformers' server, and says where vLLM would serve a student better."""

from pathlib import Path

import pytest
from tiny_models import student

from hf_tc.cli.main import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """What the server was started with."""
    calls: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr("hf_tc.hub.serving.serve", lambda folder, arguments: calls.append((folder, arguments)))
    return calls


def test_vllm_is_named_for_a_student_that_it_serves(
    served: list[tuple[Path, list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student("qwen3").save_pretrained(tmp_path)
    main(["serve", str(tmp_path), "--port", "8001"])
    assert served == [(tmp_path, ["--port", "8001"])]
    assert f"pip install 'hf_tc[vllm]' && vllm serve {tmp_path}\n" in capsys.readouterr().err


def test_vllm_is_not_named_for_another(
    served: list[tuple[Path, list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student("qwen3", conv_kernel_size=0).save_pretrained(tmp_path)
    main(["serve", str(tmp_path)])
    assert served == [(tmp_path, [])]
    assert "vllm" not in capsys.readouterr().err


def test_a_folder_that_is_no_student_is_refused(served: list[tuple[Path, list[str]]], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path)]) == 2
    assert not served
