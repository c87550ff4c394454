# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The packaged teacher and text: small, real, of known origin, and calibration apart from held-out text."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.evaluation.perplexity import perplexity
from hf_tc.teachers.checks import check_teacher
from hf_tc.teachers.vocabulary import check_vocabulary

FOLDER = tiny_teacher_path().parent
LARGEST = 6 * 1024 * 1024


def packaged_files() -> list[Path]:
    return [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def long_lines(split: str) -> set[str]:
    lines = (line.strip() for line in sample_text_path(split).read_text(encoding="utf-8").splitlines())
    return {line for line in lines if len(line) > 60}


def test_assets_are_small() -> None:
    assert 4_000_000 < sum(path.stat().st_size for path in packaged_files()) <= LARGEST


def test_no_file_can_run_code_when_loaded() -> None:
    assert {path.suffix for path in packaged_files()} == {".py", ".md", ".txt", ".json", ".safetensors"}


def test_teacher_loads_and_has_learned_english() -> None:
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path())
    check_teacher(teacher)
    check_vocabulary(tokenizer, teacher)
    assert teacher.config.model_type in ("qwen3", "llama")
    blocks = token_blocks(read_documents(sample_text_path("heldout")), tokenizer, 256, 1024)
    text = tokenizer.decode(blocks[0])
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == blocks[0].tolist()
    learned = perplexity(teacher, blocks)
    backwards = perplexity(teacher, blocks.flip(1))
    assert learned < teacher.config.vocab_size / 30
    assert learned < backwards / 5


def test_calibration_and_held_out_text_share_no_line() -> None:
    calibration, held_out = long_lines("calibration"), long_lines("heldout")
    assert len(calibration) > 250
    assert len(held_out) > 250
    assert not calibration & held_out


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="'calibration' and 'heldout'"):
        sample_text_path("train")


def test_provenance_names_data_script_and_licence() -> None:
    text = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8").lower()
    for word in ("make_tiny_teacher.py", "public domain", "held-out", "perplexity"):
        assert word in text or word.replace(" ", "-") in text or word.replace("-", "") in text, word
