# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Exported students in MLX and in llama.cpp, against themselves: logits and greedy tokens.

Each engine lives in an environment of its own, whose Python is named by a variable; without it its tests are skipped:

    HF_TC_MLX_PYTHON         pip install 'mlx[cpu]' mlx-lm       (on a Mac: mlx-lm)
    HF_TC_LLAMA_CPP_PYTHON   pip install llama-cpp-python        and LLAMA_CPP, the folder of llama.cpp's source
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import DEFAULT_ROPE, QWEN3_5, TEACHERS
from tiny_models import student, token_ids
from transformers import AutoTokenizer

from hf_tc.assets import tiny_teacher_path
from hf_tc.export.export import export_student
from hf_tc.export.gguf import CONVERTER, VARIABLE
from hf_tc.modeling import HybridGDNForCausalLM

MLX, LLAMA = (os.environ.get(name) for name in ("HF_TC_MLX_PYTHON", "HF_TC_LLAMA_CPP_PYTHON"))
NEW_TOKENS = 12
OF_LLAMA_CPP = {kind: TEACHERS[kind] for kind in ("qwen3", "qwen3, one K/V head, 2 taps", "qwen2")} | {
    "llama": ("llama", {"rope_parameters": DEFAULT_ROPE})
}


def with_tokenizer(family: str, changes: dict[str, Any]) -> HybridGDNForCausalLM:
    """A random student with a tokenizer of the kind that llama.cpp knows."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path())
    model = student(family, (0, 1, 2), **{**QWEN3_5, **changes, "vocab_size": len(tokenizer)})
    model.tokenizer = tokenizer
    return model


@torch.no_grad()
def compare(engine: str, python: str, path: Path, model: HybridGDNForCausalLM, tolerance: float) -> None:
    rows = [token_ids(1, length)[0].tolist() for length in (1, 9, 70)]
    command = [python, str(Path(__file__).with_name("engine_logits.py")), engine, str(path), json.dumps(rows)]
    done = subprocess.run([*command, str(NEW_TOKENS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    options = dict(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None)
    for row, answer in zip(rows, json.loads(done.stdout), strict=True):
        ids = torch.tensor([row])
        difference = (torch.tensor(answer["logits"]) - model(ids).logits[0]).abs()
        assert difference.mean() < 1e-4
        assert difference.max() < tolerance
        assert answer["tokens"] == model.generate(ids, **options)[0, len(row) :].tolist()


@pytest.mark.skipif(MLX is None, reason="HF_TC_MLX_PYTHON names no Python with mlx-lm")
@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if "yarn" not in kind])
def test_mlx(kind: str, tmp_path: Path) -> None:
    assert MLX is not None
    model = with_tokenizer(*TEACHERS[kind])
    compare("mlx", MLX, export_student(model, tmp_path / "out", "mlx"), model, 1e-4)


@pytest.mark.skipif(LLAMA is None, reason="HF_TC_LLAMA_CPP_PYTHON names no Python with llama-cpp-python")
@pytest.mark.parametrize("kind", OF_LLAMA_CPP)
def test_llama_cpp(kind: str, tmp_path: Path) -> None:
    """Its L2 norm adds nothing to the length of a vector, which shows where a key of a random student is short."""
    assert LLAMA is not None
    model = with_tokenizer(*OF_LLAMA_CPP[kind])
    (tmp_path / CONVERTER).write_text(CONVERTER_THAT_KNOWS_THE_TOKENIZER.format(source=os.environ[VARIABLE]))
    path = export_student(model, tmp_path / "out.gguf", "gguf", llama_cpp=tmp_path)
    compare("gguf", LLAMA, path, model, 2e-3)


# llama.cpp knows tokenizers by what they make of a text; the tiny teacher's is in none of its lists.
CONVERTER_THAT_KNOWS_THE_TOKENIZER = """
import sys
sys.path[:0] = ["{source}", "{source}/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda *_: "qwen2"
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""
