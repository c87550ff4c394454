# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 2: fit one calibrated layer to the teacher's attention output, by a short run of gradient descent.

Source: Taylor-Calibrate (arXiv 2606.16429), section 3.3. Unlike the paper's: minibatches, a cosine schedule, float32
weights, a `relative_error` in which first tokens have a share, corrupted copies of the text beside it
(`data.corrupted_sequences`), and the best weights by held-out error, the start included.
For GPUs see `training_step`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hf_tc.alignment.relative_error import relative, relative_error, sizes
from hf_tc.alignment.step_sizes import adam, size_of, step_sizes
from hf_tc.alignment.training_step import snapshot, training_step
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.config import AlignmentConfig
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask

HELD_OUT_CHECKS = 10  # times the held-out error is looked at during a run


def mix(mixer: GatedDeltaNet, captured: CapturedAttention, rows: Tensor | slice) -> Tensor:
    """The mixer's output on some captured blocks, `[rows, T, C]`."""
    return _output(mixer, captured, captured.attn_input[rows])


def _output(mixer: GatedDeltaNet, captured: CapturedAttention, attn_input: Tensor) -> Tensor:
    return mixer(attn_input, captured.position_embeddings, recurrent_mask=RecurrentMask())[0]


@torch.no_grad()
def held_out_error(mixer: GatedDeltaNet, captured: CapturedAttention) -> float:
    """Relative error of the mixer on captured blocks it was not fitted to; 0 or 1 where the teacher adds nothing."""
    difference, size = torch.zeros(2, 2, dtype=torch.float64)
    for row in range(len(captured.attn_input)):
        rows = slice(row, row + 1)
        target = captured.teacher_output[rows]
        difference += sizes(mix(mixer, captured, rows) - target).cpu()
        size += sizes(target).cpu()
    return relative(difference, size, captured.teacher_output.shape[1]).item()


def align_layer(
    mixer: GatedDeltaNet,
    captured: CapturedAttention,
    held_out: CapturedAttention,
    settings: AlignmentConfig,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> float:
    """Fits a float32 mixer in place and returns its held-out error, never above the error it came with.

    Raises:
        ValueError: weights that are not float32: small steps would be rounded away.
    """
    if any(parameter.dtype not in (torch.float32, torch.float64) for parameter in mixer.parameters()):
        raise ValueError("align_layer needs a float32 mixer; call .float() on it and cast the result back.")
    best_error, best_state = held_out_error(mixer, captured=held_out), snapshot(mixer)
    if settings.steps == 0:
        return best_error
    batches = _minibatches(captured, settings, seed)
    input_size = size_of(captured.attn_input[batches[0]])
    optimizer = adam(step_sizes(mixer.requires_grad_(True), input_size, settings))
    schedule = cosine_schedule(optimizer, settings)
    check_every = max(1, settings.steps // HELD_OUT_CHECKS)

    def minibatch(rows: Tensor) -> tuple[Tensor, Tensor]:
        return captured.attn_input[rows], captured.teacher_output[rows]

    def loss(attn_input: Tensor, target: Tensor) -> Tensor:
        return relative_error(_output(mixer, captured, attn_input), target)

    with training_step(mixer, optimizer, loss, minibatch(batches[0]), clip=settings.gradient_clip) as take_step:
        for number, rows in enumerate(batches, start=1):
            take_step(*minibatch(rows))
            schedule.step()
            on_step()
            if number % check_every == 0 or number == settings.steps:
                error = held_out_error(mixer, held_out)
                if error < best_error:
                    best_error, best_state = error, snapshot(mixer)
    mixer.load_state_dict(best_state)
    return best_error


def _minibatches(captured: CapturedAttention, settings: AlignmentConfig, seed: int) -> Tensor:
    """Rows of each step, `[steps, batch]`: all of them in a new order, again and again; none twice in a step."""
    generator = torch.Generator().manual_seed(seed)
    blocks, length = captured.attn_input.shape[:2]
    batch = min(blocks, settings.batch_blocks(length))
    steps = blocks // batch  # of an order; what is left of it waits for another
    orders = [torch.randperm(blocks, generator=generator) for _ in range(-(-settings.steps // steps))]
    rows = torch.cat([order[: steps * batch].view(steps, batch) for order in orders])
    return rows[: settings.steps].to(captured.attn_input.device)


def cosine_schedule(optimizer: torch.optim.Optimizer, settings: AlignmentConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine to zero over the steps of the settings.

    Transformers' own begins at a learning rate of 0: the first step of a short fit would do nothing.
    """
    warmup = max(1, round(settings.warmup_ratio * settings.steps))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
