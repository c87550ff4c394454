# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 3, optional: all recurrent layers together, on the student's own inputs, against the teacher's predictions.

The alignment of phase 2 shows every layer the teacher's inputs, so the errors of the layers below it are new to it.
Here the mixers, and nothing else, learn by the distillation loss on the calibration text and its corrupted windows. It
needs teacher and student on one device, and optimiser state for all mixers at once.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from hf_tc.alignment.layerwise import HELD_OUT_CHECKS, alignment_optimizer, cosine_schedule, snapshot
from hf_tc.config import AlignmentConfig
from hf_tc.data.corrupted_sequences import corrupted_sequences
from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.distill import BlockDataset, example
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.memory.estimate import free_bytes, joint_pass, largest, widths_of
from hf_tc.modeling import cuda_graphs
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_decoder_layers
from hf_tc.teachers.offloading import is_dispatched


class TextAndCorruptedSequences(Dataset[dict[str, Tensor]]):
    """Calibration blocks and corrupted windows of them in turn, `size` examples of `[T]`."""

    def __init__(self, blocks: Tensor, size: int, seed: int) -> None:
        self.blocks, self.size, self.seed = blocks.cpu(), size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        turn, is_corrupted = divmod(index, 2)
        row = turn % len(self.blocks)
        tokens = self.blocks[row]
        if is_corrupted:
            tokens = corrupted_sequences(self.blocks, 1, self.seed + turn)[0]
        return example(tokens)


class KeepBest(TrainerCallback):
    """Remembers the mixers' weights at the lowest held-out KL seen, and shows it on a progress bar."""

    def __init__(self, mixers: nn.ModuleList, kl: float, steps: int) -> None:
        self.mixers, self.kl, self.state = mixers, kl, snapshot(mixers)
        self.progress = tqdm(total=steps, desc="Aligning jointly", unit="step", mininterval=1.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kl = kwargs["metrics"]["eval_kl"]
        self.progress.set_postfix_str(f"held-out KL {kl:.4f}")
        if kl < self.kl:
            self.kl, self.state = kl, snapshot(self.mixers)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.close()


def check_not_dispatched(teacher: PreTrainedModel) -> None:
    """Raises ValueError for a teacher that is spread over devices or offloaded."""
    if is_dispatched(teacher):
        raise ValueError(
            "Joint alignment needs the whole teacher on one device, and this one is dispatched or offloaded. Set "
            "joint_steps to 0, or load the teacher without a device map."
        )


def align_jointly(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mixers: Iterable[GatedDeltaNet],
    blocks: Tensor,
    held_out: Tensor,
    settings: AlignmentConfig,
    seed: int,
) -> tuple[float, float]:
    """Trains the student's mixers in place; returns the held-out KL (nats a token) before and after, never above.

    Args:
        mixers: the student's recurrent mixers; the rest of it stays as it is and may share the teacher's memory.
        blocks, held_out: token ids `[N, T]`.

    Raises:
        ValueError: the teacher is spread over devices or offloaded.
    """
    check_not_dispatched(teacher)
    parts, dtype = nn.ModuleList(mixers), student.dtype
    trainable = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    student.requires_grad_(False)
    parts.float().requires_grad_(True)
    try:
        with tempfile.TemporaryDirectory() as folder, routers_left_alone(student):
            trainer = _trainer(student, teacher, parts, blocks, held_out, settings, seed, folder)
            before = trainer.evaluate()["eval_kl"]
            best = KeepBest(parts, before, settings.steps)
            trainer.add_callback(best)
            trainer.train()
            trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)
        parts.load_state_dict(best.state)
    finally:
        cuda_graphs.release()
        parts.to(dtype)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(trainable[name]).grad = None
    return before, best.kl


@contextmanager
def routers_left_alone(student: PreTrainedModel) -> Iterator[None]:
    """Inside, no load-balancing loss: routers are frozen, and mixers are to follow the teacher anywhere."""
    config = student.config.get_text_config()
    balances = getattr(config, "output_router_logits", False)
    if balances:
        config.output_router_logits = False
    try:
        yield
    finally:
        if balances:
            config.output_router_logits = balances


def _blocks_at_once(teacher: PreTrainedModel, mixers: nn.ModuleList, length: int) -> int:
    widths = widths_of(teacher, largest(mixers), teacher.dtype.itemsize)
    layers = len(find_decoder_layers(teacher.base_model))
    return joint_pass(widths, length, layers, len(mixers), free_bytes(teacher.device))[0]


def _trainer(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mixers: nn.ModuleList,
    blocks: Tensor,
    held_out: Tensor,
    settings: AlignmentConfig,
    seed: int,
    folder: str,
) -> DistillationTrainer:
    batch = settings.batch_blocks(blocks.shape[1])
    at_once = min(batch, _blocks_at_once(teacher, mixers, blocks.shape[1]))
    accumulated = math.ceil(batch / at_once)
    arguments = DistillationConfig(
        output_dir=folder,
        max_steps=settings.steps,
        per_device_train_batch_size=at_once,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=accumulated,
        max_grad_norm=settings.gradient_clip,
        eval_strategy="steps",
        eval_steps=max(1, settings.steps // HELD_OUT_CHECKS),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=student.dtype == torch.bfloat16,
        use_cpu=teacher.device.type == "cpu",
        seed=seed,
    )
    optimizer = alignment_optimizer(mixers, settings)
    # The trainer runs the student once to find its head: float32 mixers among bfloat16 layers need autocast for that.
    with torch.autocast(student.device.type, student.dtype, enabled=arguments.bf16):
        trainer = DistillationTrainer(
            student,
            teacher,
            arguments,
            train_dataset=TextAndCorruptedSequences(blocks, settings.steps * at_once * accumulated, seed),
            eval_dataset=BlockDataset(held_out.cpu()),
            optimizers=(optimizer, cosine_schedule(optimizer, settings)),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer
