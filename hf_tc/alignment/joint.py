# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 3: all recurrent layers together, on the student's own inputs, against the teacher's predictions.

The alignment of phase 2 shows every layer the teacher's inputs, so the errors of the layers below it are new to it.
Here the mixers, and nothing else, learn to predict what the teacher predicts (forward KL on every token). It needs
teacher and student on one device, and optimiser state for all mixers at once.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.alignment.joint_progress import Progress, ProgressFile, optimizer_state, restore_optimizer
from hf_tc.alignment.layerwise import cosine_schedule
from hf_tc.alignment.step_sizes import adam, input_sizes, step_sizes
from hf_tc.alignment.training_step import snapshot, training_step
from hf_tc.alignment.unmasked_rows import unmasked_rows
from hf_tc.config import AlignmentConfig
from hf_tc.data.repeated_passages import near_and_far
from hf_tc.data.token_blocks import NO_START
from hf_tc.data.training_sequences import training_sequences
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.distance import DistanceFromTeacher
from hf_tc.evaluation.kd_loss import Objective
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.memory.estimate import free_bytes, has_room, joint_pass, largest, widths_of
from hf_tc.modeling import cuda_graphs
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_decoder_layers
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import is_8bit, is_dispatched

LOOKS = 20  # at held-out text during a run
PATIENCE = 4  # looks of the second half of a run without coming closer, after which it ends


def is_beside_its_student(teacher: PreTrainedModel) -> bool:
    """Whether a student is whole and on its teacher's device: not where that is dispatched, offloaded or in 8 bits."""
    return not is_dispatched(teacher) and not is_8bit(teacher)


def check_can_align_jointly(teacher: PreTrainedModel) -> None:
    """Raises ValueError for a teacher that is spread over devices, offloaded or in 8 bits."""
    if not is_beside_its_student(teacher):
        raise ValueError(
            "Joint alignment needs the whole teacher on one device, and this one is dispatched, offloaded or in 8 "
            "bits. Set joint_steps to 0, or load the teacher without a device map and unquantised."
        )


def align_jointly(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mixers: Iterable[GatedDeltaNet],
    blocks: Tensor,
    held_out: Tensor,
    settings: AlignmentConfig,
    seed: int,
    progress_file: Path | None = None,
    start: Tensor = NO_START,
) -> tuple[float, float]:
    """Trains the student's mixers in place; returns `HeldOutDistance` before and after, never above.

    Args:
        mixers: the student's recurrent mixers; the rest of it stays as it is and may share the teacher's memory.
        blocks, held_out: token ids `[N, T]`, T at least 4 without bos.
        progress_file: written every few minutes; the same call goes on from there.
        start: `[P]`, what every block begins with: bos, or nothing.

    Raises:
        ValueError: the teacher is spread over devices, offloaded or in 8 bits, or blocks are too short to repeat a
            passage in.
    """
    check_can_align_jointly(teacher)
    parts = nn.ModuleList(mixers)
    at_once, _ = joint_pass_of(teacher, parts, blocks.shape[1])
    file = ProgressFile(progress_file, [asdict(settings), seed])
    with evaluating(student), _alone_in_training(student, parts), _autocast(student), unmasked_rows():
        run = JointRun(student, teacher, parts, HeldOutDistance(teacher, held_out, at_once, start), file)
        batches = training_sequences(blocks, settings.batch_blocks(blocks.shape[1]), seed, start)
        best = run.train(batches, settings, at_once)
        parts.load_state_dict(best.state)
    file.remove()
    return best.before, best.distance


@dataclass
class JointRun:
    """Student and teacher, the mixers that learn, and how the run is watched and kept."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    mixers: nn.ModuleList
    distance: "HeldOutDistance"
    file: ProgressFile

    def train(self, batches: Iterator[Tensor], settings: AlignmentConfig, at_once: int) -> "Best":
        """The steps that are left; the best weights of all of them."""
        device, example = self.teacher.device, (next(batches).to(self.teacher.device),)
        optimizer = self._optimizer(settings, example[0][:at_once])
        schedule = cosine_schedule(optimizer, settings)
        check_every = max(1, settings.steps // LOOKS)
        best, progress = Best(self.mixers), tqdm(total=settings.steps, desc="Aligning jointly", unit="step")
        loss = PredictionLoss(self.student, self.teacher)
        take_step = training_step(self.mixers, optimizer, loss, example, clip=settings.gradient_clip, at_once=at_once)
        with take_step as step, progress:
            done = self._go_on(best, optimizer, schedule)
            next(islice(batches, done, done), None)  # those of the steps done go by
            progress.update(done)
            for number in range(done + 1, settings.steps + 1):
                step(next(batches).to(device))
                schedule.step()
                progress.update()
                if number % check_every == 0 or number == settings.steps:
                    # Large steps may lead away from where small ones then come closer.
                    best.see(self.distance(self.student), counts=2 * number >= settings.steps)
                    progress.set_postfix_str(f"held-out KL {best.distance:.4f}")
                    if best.is_past:
                        break
                    if self.file.is_due():
                        self.file.write(best.progress(number, optimizer))
        return best

    def _optimizer(self, settings: AlignmentConfig, tokens: Tensor) -> torch.optim.Optimizer:
        """With step sizes as the mixers are now and as their inputs are on these tokens."""
        mixers = [mixer for mixer in self.mixers if isinstance(mixer, GatedDeltaNet)]
        sizes = input_sizes(self.student, mixers, tokens)
        steps = (step_sizes(mixer, size, settings) for mixer, size in zip(mixers, sizes, strict=True))
        return adam(chain.from_iterable(steps))

    def _go_on(self, best: "Best", optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> int:
        """Takes up an earlier run, or looks at where this one begins; the steps that were done."""
        earlier = self.file.read()
        if earlier is None:
            best.see(self.distance(self.student))
            return 0
        best.take_up(earlier)
        restore_optimizer(optimizer, earlier.optimizer)
        at = {**schedule.state_dict(), "last_epoch": earlier.step - 1, "_step_count": earlier.step}
        schedule.load_state_dict(at)
        schedule.step()
        return earlier.step


class PredictionLoss:
    """KL(teacher || student) of token ids `[B, T]`, mean over tokens, with gradients for all below the head."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        self.student, self.teacher = BackboneThenHead(student), BackboneThenHead(teacher)

    def __call__(self, tokens: Tensor) -> Tensor:
        inputs = {"input_ids": tokens}
        with torch.no_grad():
            taught = self.teacher.hidden_states(inputs)
        ours = self.student.lazy_logits(self.student.hidden_states(inputs))
        theirs, at_once = self.teacher.lazy_logits(taught), self.student.tokens_at_once
        return chunked_objective(ours, theirs, None, Objective(), chunk_tokens=at_once) / tokens.numel()


class HeldOutDistance:
    """KL(teacher || student) on held-out text, and the same on second copies of passages of it, added: nats a token.

    The sum decides what is kept, since a student can come closer on text and forget how to look up.
    """

    def __init__(self, teacher: PreTrainedModel, held_out: Tensor, batch_size: int, start: Tensor) -> None:
        repeated = near_and_far(held_out, start)
        self._text = DistanceFromTeacher(teacher, held_out, batch_size)
        self._copies = DistanceFromTeacher(teacher, repeated.input_ids, batch_size, repeated.second_copies)

    def __call__(self, student: PreTrainedModel) -> float:
        return self._text(student)[0] + self._copies(student)[0]


class Best:
    """The mixers' weights at the lowest held-out distance seen, the first one before any step."""

    def __init__(self, mixers: nn.ModuleList) -> None:
        self.mixers, self.before, self.distance = mixers, math.inf, math.inf
        self.state, self.not_better = snapshot(mixers), 0

    def see(self, distance: float, counts: bool = True) -> None:
        """Takes the weights as they are now if this distance of them is lower; else `is_past` may count it."""
        if self.before == math.inf:
            self.before = distance
        self.not_better = self.not_better + 1 if counts else 0
        if distance < self.distance:
            self.distance, self.state, self.not_better = distance, snapshot(self.mixers), 0

    @property
    def is_past(self) -> bool:
        """Whether the distance has not come down for so long that it will not any more."""
        return self.not_better >= PATIENCE

    def progress(self, step: int, optimizer: torch.optim.Optimizer) -> Progress:
        state = optimizer_state(optimizer)
        return Progress(step, self.not_better, self.before, self.distance, self.state, snapshot(self.mixers), state)

    def take_up(self, earlier: Progress) -> None:
        """Puts back the weights as they were, and the best of them."""
        self.mixers.load_state_dict(earlier.weights)
        self.state = {name: value.to(self.state[name].device) for name, value in earlier.best.items()}
        self.before, self.distance, self.not_better = earlier.before, earlier.best_kl, earlier.not_better


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


def joint_pass_of(teacher: PreTrainedModel, mixers: nn.ModuleList, length: int) -> tuple[int, bool]:
    """Blocks of a pass through teacher and student, and whether there is room for it on a GPU."""
    widths = widths_of(teacher, largest(mixers), teacher.dtype.itemsize)
    layers, free = len(find_decoder_layers(teacher.base_model)), free_bytes(teacher.device)
    blocks, needed = joint_pass(widths, length, layers, len(mixers), free)
    return blocks, has_room(needed, free)
