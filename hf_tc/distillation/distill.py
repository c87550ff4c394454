# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One distillation from files to a folder: what `hf-tc distill` does."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

from hf_tc.calibration.data import CalibrationDataError, read_documents, token_blocks
from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.report import ConversionReport

WARMUP_SHARE = 0.05
CHECKPOINTS = 10  # of a run; it resumes from the last one


class BlockDataset(Dataset):
    """Blocks of token ids `[N, T]` as a dataset of examples."""

    def __init__(self, blocks: torch.Tensor) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "attention_mask": torch.ones_like(self.blocks[index])}


def distill(
    student: str | Path,
    teacher: str | Path,
    data: Any,
    out: str | Path,
    *,
    tokens: int,
    seq_len: int = 1024,
    batch_size: int = 8,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Trains the student in a folder on `tokens` tokens of text, once through, and saves it to `out`.

    Checkpoints are kept in `out` + ".unfinished" until it is done; the same call goes on from the last one.

    Raises:
        CalibrationDataError: the text has fewer tokens than asked for.
    """
    tokenizer = AutoTokenizer.from_pretrained(student)
    blocks = token_blocks(read_documents(data), tokenizer, seq_len, tokens)
    if len(blocks) < tokens // seq_len:
        raise CalibrationDataError(
            f"{data} has {blocks.numel():,} tokens in blocks of {seq_len}, {tokens:,} were asked for. Give more text "
            "or ask for fewer tokens."
        )
    model = AutoModelForCausalLM.from_pretrained(student, dtype="auto")
    dtype, unfinished = model.dtype, Path(f"{out}.unfinished")
    arguments = DistillationConfig(
        output_dir=str(unfinished),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_SHARE,
        bf16=torch.cuda.is_available(),
        logging_steps=1 / 50,
        save_steps=1 / CHECKPOINTS,
        save_total_limit=2,
        report_to="none",
        seed=seed,
    )
    trainer = DistillationTrainer(
        model, teacher, arguments, train_dataset=BlockDataset(blocks), processing_class=tokenizer
    )
    last = get_last_checkpoint(str(unfinished)) if unfinished.exists() else None
    trainer.train(resume_from_checkpoint=last)
    model = trainer.accelerator.unwrap_model(trainer.model).to(dtype)
    if trainer.is_world_process_zero():
        model.tokenizer = tokenizer
        if hasattr(model.config, "calibration"):
            model.config.calibration = {**(model.config.calibration or {}), "distilled_tokens": blocks.numel()}
        if ConversionReport.stands_in(student):
            model.conversion_report = ConversionReport.load(student)
        model.save_pretrained(out)
        shutil.rmtree(unfinished, ignore_errors=True)
