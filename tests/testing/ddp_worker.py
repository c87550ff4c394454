# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Trains and evaluates a tiny student; run alone or in several processes by test_ddp.py.

Usage: ddp_worker.py OUTPUT_DIR BATCH_SIZE_PER_PROCESS ACCUMULATION_STEPS
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from library_names import checkpointing_argument
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3

from hf_tc.distillation import DistillationConfig, DistillationTrainer
from hf_tc.teachers.new_student import build_student

# By what is told apart: this decides find_unused_parameters of DDP, and which parameters are unused.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"checkpointing": False},  # by name
    "checkpointed": {"checkpointing": True},  # with token weights, and a teacher whose head is tied
    "layers": {"checkpointing": True, "layer_weight": 1.0, "distribution_weight": 0.0},  # of packed rows
}


def main(output_dir: Path, batch_size: int, accumulation_steps: int) -> None:
    for name, changes in KINDS.items():
        distil(output_dir / name, batch_size, accumulation_steps, **changes)


def models(name: str) -> tuple[Any, Any]:
    if name == "layers":
        return build_student(tiny_qwen3(), ["linear_attention", "full_attention"]), tiny_qwen3(2)
    return tiny_llama(), tiny_qwen3(tie_word_embeddings=name == "checkpointed")


def examples(name: str, count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    plain = labelled_examples(count, seed)
    if name == "plain":
        return plain
    if name == "layers":
        positions = torch.tensor([*range(5), *range(7)])
        return [{**example, "position_ids": positions} for example in plain]
    generator = torch.Generator().manual_seed(seed)
    return [{**example, "token_weights": torch.rand(12, generator=generator)} for example in plain]


def distil(output_dir: Path, batch_size: int, accumulation_steps: int, checkpointing: bool, **changes: Any) -> None:
    name = output_dir.name
    student, teacher = models(name)
    args = DistillationConfig(
        output_dir=str(output_dir),
        use_cpu=torch.accelerator.is_available(),  # where there is none, that goes without saying
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
        ce_weight=0.2 if changes.get("distribution_weight", 1.0) else 0.0,
        chunk_tokens=5,
        **changes,
    )
    if name == "plain":
        student, teacher = saved(student, output_dir / "student"), saved(teacher, output_dir / "teacher")
    if args.deepspeed_plugin is not None:
        zero = args.deepspeed_plugin.deepspeed_config["zero_optimization"]
        zero["stage3_param_persistence_threshold"] = 0  # else weights as small as these stay gathered after one use
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=examples(name, 32),
        eval_dataset=examples(name, 7, seed=1),  # not a multiple of the batch: the sampler repeats examples
    )
    trainer.train()
    metrics = trainer.evaluate()
    gathered = [hasattr(weight, "ds_status") and weight.numel() for weight in trainer.teacher.parameters()]
    assert not any(gathered), "ZeRO-3 keeps whole what it gathered of the teacher"
    shards = {part: sum(map(is_shard, getattr(trainer, part).parameters())) for part in ("model", "teacher")}
    weights = whole_weights(trainer)
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        figures = {name: metrics[name] for name in ("eval_loss", "eval_kl", "eval_teacher_perplexity")}
        output_dir.mkdir(parents=True, exist_ok=True)
        result = {"processes": args.world_size, "shards": shards, "losses": losses, **figures}
        (output_dir / "result.json").write_text(json.dumps(result))
        save_file(weights, output_dir / "weights.safetensors")


def saved(model: Any, folder: Path) -> Path:
    if PartialState().is_main_process:
        model.save_pretrained(folder)
    PartialState().wait_for_everyone()
    return folder


def whole_weights(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.get_state_dict(trainer.deepspeed)
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return {key: weight.full_tensor() if is_shard(weight) else weight for key, weight in weights.items()}


def is_shard(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "full_tensor") or hasattr(tensor, "ds_status")  # of FSDP2, of ZeRO-3


def shard_on_cpus() -> None:
    """accelerate shards by FSDP2 on accelerators alone, which torch does not mind."""
    begin = PartialState.__init__

    def begin_as_on_accelerators(self: PartialState, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_XPU

    PartialState.__init__ = begin_as_on_accelerators


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    # A process that ends while another still talks to it may be aborted by gloo's threads.
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
