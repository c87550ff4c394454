# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A damaged file of weights is named, wherever it lies; errors of another cause stay as they are."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from conversion_inputs import equal_states, letter_teacher, state_of, teacher_folder
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from hf_tc.convert import from_teacher
from hf_tc.teachers.loading import load_causal_lm


@pytest.mark.parametrize(("saving", "number"), [({}, 0), ({"max_shard_size": "20KB"}, 2)], ids=["whole", "shards"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_file_is_named(saving: dict[str, Any], number: int, kept: int, tmp_path: Path) -> None:
    teacher_folder(tmp_path, **saving)
    damaged = sorted(tmp_path.glob("*.safetensors"))[number]
    damaged.write_bytes(damaged.read_bytes()[:kept])
    message = re.escape(f"{damaged} is missing or damaged (") + r".*\)\. Save or download it again\."
    with pytest.raises(ValueError, match=message):
        load_causal_lm(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_teacher(str(tmp_path), device="cpu")


def test_a_file_of_the_hubs_cache_is_to_be_downloaded_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--some--teacher", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    weights = teacher_folder(repository / "snapshots" / commit) / "model.safetensors"
    assert equal_states(state_of(load_causal_lm("some/teacher")), state_of(letter_teacher()))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"damaged .*: hf download some/teacher --force-download") as error:
        load_causal_lm("some/teacher")
    assert str(weights) in str(error.value)


def test_an_error_that_no_file_explains_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: Any, **options: Any) -> None:
        raise SafetensorError("No space left")  # offloading writes files as well

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full_disk)
    for name in (teacher_folder(tmp_path), "some/teacher-that-is-not-there"):
        with pytest.raises(SafetensorError, match="No space left"):
            load_causal_lm(name)
