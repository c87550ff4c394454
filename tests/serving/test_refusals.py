# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""vLLM itself says the plugin's one line about what it cannot serve, before it starts an engine."""

from pathlib import Path
from typing import Any

import pytest
from vllm_server import save_tiny_student

pytest.importorskip("vllm")
pytestmark = pytest.mark.serving


def refusal(folder: Path, **options: Any) -> str:
    """What vLLM says where it makes the engine's configuration."""
    from vllm.engine.arg_utils import EngineArgs

    with pytest.raises(ValueError) as error:  # pydantic's, which is one
        EngineArgs(model=str(folder), dtype="float32", max_model_len=128, **options).create_engine_config()
    return str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused") / "student"
    save_tiny_student("qwen3", path, max_shard_size="20kB")
    return path


def test_an_untested_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.33.0")
    assert "This is vLLM 0.33.0; hf_tc serves students by vLLM<0.33,>=0.32" in refusal(folder)


def test_a_family_without_a_class(tmp_path: Path) -> None:
    save_tiny_student("olmo2", tmp_path)
    assert "this student's teacher is of 'olmo2'" in refusal(tmp_path)


def test_a_form_that_is_not_served(tmp_path: Path) -> None:
    save_tiny_student("qwen3", tmp_path, conv_kernel_size=0)
    assert "conv_kernel_size is 0" in refusal(tmp_path)


def test_ranks_that_do_not_divide(folder: Path) -> None:
    assert "--tensor-parallel-size 4 does not divide 4 query heads and 2 key/value heads" in refusal(
        folder, tensor_parallel_size=4
    )


def test_speculation(folder: Path) -> None:
    speculative = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    assert "a recurrent state cannot take a token back" in refusal(folder, speculative_config=speculative)


def test_half_a_download(folder: Path) -> None:
    last = max(folder.glob("*.safetensors"))
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    assert f"{last.name} is missing or damaged" in refusal(folder)
    last.write_bytes(whole)
