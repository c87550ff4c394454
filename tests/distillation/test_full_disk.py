# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A disk that becomes full while a checkpoint is written, as each library says it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from distillation_runs import config
from safetensors import SafetensorError
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from transformers import Trainer

from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation.checkpoints import last_complete_checkpoint


def trainer(folder: Path) -> DistillationTrainer:
    arguments = config(folder, save_strategy="steps", save_steps=2, max_steps=6)
    return DistillationTrainer(tiny_llama(), tiny_qwen3(), arguments, train_dataset=labelled_examples(8))


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 10**9),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 10**9),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_last_whole_checkpoint_is_kept_and_named(
    error: Exception, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            raise error
        save(self, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, free))
        with pytest.raises(OSError, match=r"No space is left .*step 4 was not written; .*checkpoint-2 is kept. Make r"):
            trainer(tmp_path).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
    assert resumed.state.global_step == 6


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, folder: str) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", fails)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        trainer(tmp_path).train()
