# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Trains and evaluates a tiny student; run alone or in several processes by test_ddp.py.

Usage: ddp_worker.py OUTPUT_DIR BATCH_SIZE_PER_PROCESS ACCUMULATION_STEPS
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from library_names import checkpointing_argument
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3

from hf_tc.distillation import DistillationConfig, DistillationTrainer


def main(output_dir: Path, batch_size: int, accumulation_steps: int) -> None:
    for name, checkpointing in (("plain", False), ("checkpointed", True)):
        distil(output_dir / name, batch_size, accumulation_steps, checkpointing)


def distil(output_dir: Path, batch_size: int, accumulation_steps: int, checkpointing: bool) -> None:
    args = DistillationConfig(
        output_dir=str(output_dir),
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation_steps,
        **checkpointing_argument(checkpointing),
        learning_rate=0.5,
        optim="sgd",
        max_steps=3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        ce_weight=0.2,
        chunk_tokens=5,
    )
    trainer = DistillationTrainer(
        model=tiny_llama(),
        teacher=tiny_qwen3(),
        args=args,
        train_dataset=labelled_examples(32),
        eval_dataset=labelled_examples(7, seed=1),  # not a multiple of the batch: the sampler repeats examples
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        figures = {name: metrics[name] for name in ("eval_loss", "eval_kl", "eval_teacher_perplexity")}
        output_dir.mkdir(parents=True, exist_ok=True)
        result = {"processes": args.world_size, "losses": losses, **figures}
        (output_dir / "result.json").write_text(json.dumps(result))
        save_file(
            dict(trainer.accelerator.unwrap_model(trainer.model).state_dict()), output_dir / "weights.safetensors"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
