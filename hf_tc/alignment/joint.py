# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 3: all recurrent layers together, on the student's own inputs, against the teacher's predictions.

The alignment of phase 2 shows every layer the teacher's inputs, so the errors of the layers below it are new to it.
Here the mixers, and nothing else, learn to predict what the teacher predicts (forward KL on every token). It needs
teacher and student on one device, and optimiser state for all mixers at once.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.alignment.layerwise import HELD_OUT_CHECKS, alignment_optimizer, cosine_schedule, snapshot
from hf_tc.alignment.training_step import training_step
from hf_tc.alignment.unmasked_rows import unmasked_rows
from hf_tc.config import AlignmentConfig
from hf_tc.data.training_sequences import training_sequences
from hf_tc.evaluation.distance import DistanceFromTeacher
from hf_tc.evaluation.frozen_head_kl import frozen_head_kl
from hf_tc.evaluation.kd_loss import LazyLogits
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.memory.estimate import free_bytes, joint_pass, largest, widths_of
from hf_tc.modeling import cuda_graphs
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_decoder_layers
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import is_dispatched


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
    parts = nn.ModuleList(mixers)
    at_once = _blocks_at_once(teacher, parts, blocks.shape[1])
    with evaluating(student), _alone_in_training(student, parts), _autocast(student), unmasked_rows():
        kl = PredictionLoss(student, teacher)
        distance = DistanceFromTeacher(teacher, held_out, at_once)
        optimizer = alignment_optimizer(parts, settings)
        schedule = cosine_schedule(optimizer, settings)
        batches = training_sequences(blocks, settings.batch_blocks(blocks.shape[1]), seed)
        best, check_every = Best(parts, distance(student)[0]), max(1, settings.steps // HELD_OUT_CHECKS)
        before, first = best.kl, next(batches).to(teacher.device)
        take_step = training_step(parts, optimizer, kl, (first,), clip=settings.gradient_clip, at_once=at_once)
        progress = tqdm(total=settings.steps, desc="Aligning jointly", unit="step", mininterval=1.0)
        with take_step as step, progress:
            for number in range(1, settings.steps + 1):
                step(next(batches).to(teacher.device))
                schedule.step()
                progress.update()
                if number % check_every == 0 or number == settings.steps:
                    best.see(distance(student)[0])
                    progress.set_postfix_str(f"held-out KL {best.kl:.4f}")
        parts.load_state_dict(best.state)
    return before, best.kl


class PredictionLoss:
    """KL(teacher || student) of token ids `[B, T]`, mean over tokens, with gradients for all below the head."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        self.student, self.teacher = BackboneThenHead(student), BackboneThenHead(teacher)

    def __call__(self, tokens: Tensor) -> Tensor:
        inputs = {"input_ids": tokens}
        with torch.no_grad():
            taught = self.teacher.hidden_states(inputs)
        ours = LazyLogits(self.student.logits, self.student.hidden_states(inputs))
        return frozen_head_kl(ours, LazyLogits(self.teacher.logits, taught), self.student.tokens_at_once)


class Best:
    """The mixers' weights at the lowest held-out KL seen."""

    def __init__(self, mixers: nn.ModuleList, kl: float) -> None:
        self.mixers, self.kl, self.state = mixers, kl, snapshot(mixers)

    def see(self, kl: float) -> None:
        """Takes the weights as they are now if this KL of them is lower."""
        if kl < self.kl:
            self.kl, self.state = kl, snapshot(self.mixers)


@contextmanager
def _alone_in_training(student: PreTrainedModel, mixers: nn.ModuleList) -> Iterator[None]:
    """Inside, the mixers are float32 and train, and nothing else of the student does."""
    dtype, trainable = student.dtype, {name: weight.requires_grad for name, weight in student.named_parameters()}
    student.requires_grad_(False)
    mixers.float().requires_grad_(True)
    try:
        yield
    finally:
        cuda_graphs.release()
        mixers.to(dtype)
        for name, weight in student.named_parameters():
            weight.requires_grad_(trainable[name]).grad = None


def _autocast(student: PreTrainedModel) -> torch.autocast:
    """bfloat16 for a student in half precision, whose mixers are float32 here. Casts are not cached: what a CUDA graph
    has captured must not use those from before it."""
    half = student.dtype.itemsize < torch.float32.itemsize
    return torch.autocast(student.device.type, torch.bfloat16, enabled=half, cache_enabled=False)


def _blocks_at_once(teacher: PreTrainedModel, mixers: nn.ModuleList, length: int) -> int:
    widths = widths_of(teacher, largest(mixers), teacher.dtype.itemsize)
    layers = len(find_decoder_layers(teacher.base_model))
    return joint_pass(widths, length, layers, len(mixers), free_bytes(teacher.device))[0]
