# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far Adam moves each weight of a mixer: a share of what the weight is, or of what its input makes of it.

Adam moves a number by about its learning rate, whatever the gradient. Projections of one teacher are ten times as large
as those of another, and so are the inputs of another's gates: a step that fits one throws the other off.

    teacher's weight W            share * rms(W)
    its bias                      share * rms(W) * rms(x)    the weight of a constant input as large as x
    new weight that reads x       rate / rms(x)
    all else that is new          rate
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.config import AlignmentConfig
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.teachers.new_student import is_new_in_mixer

READ_THE_INPUT = ("a_proj.weight", "b_proj.weight", "g_proj.weight")
SMALLEST_SIZE = 1e-6  # of a weight that is all zeros, which could not be trained otherwise


class StepSize(NamedTuple):
    parameter: nn.Parameter
    learning_rate: float


def size_of(tensor: Tensor) -> float:
    """Root mean square, in float32; of zeros a little more than 0."""
    return max(tensor.detach().float().square().mean().sqrt().item(), SMALLEST_SIZE)


def step_sizes(mixer: GatedDeltaNet, input_size: float, settings: AlignmentConfig) -> Iterator[StepSize]:
    """Of each weight of a mixer whose inputs x have that root mean square."""
    parameters = dict(mixer.named_parameters())
    for name, parameter in parameters.items():
        if name in READ_THE_INPUT:
            rate = settings.gate_learning_rate / input_size
        elif is_new_in_mixer(name):
            rate = settings.gate_learning_rate
        elif name.endswith(".bias"):
            rate = settings.teacher_step * size_of(parameters[name.removesuffix("bias") + "weight"]) * input_size
        else:
            rate = settings.teacher_step * size_of(parameter)
        yield StepSize(parameter, rate)


@torch.no_grad()
def input_sizes(model: PreTrainedModel, mixers: Iterable[GatedDeltaNet], tokens: Tensor) -> list[float]:
    """Root mean square of what reaches each mixer when the model reads token ids `[B, T]`."""
    found: dict[nn.Module, float] = {}

    def note(mixer: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        found[mixer] = size_of(named["hidden_states"] if "hidden_states" in named else arguments[0])

    mixers = list(mixers)
    hooks = [mixer.register_forward_pre_hook(note, with_kwargs=True) for mixer in mixers]
    try:
        model.base_model(input_ids=tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[mixer] for mixer in mixers]


def adam(sizes: Iterable[StepSize]) -> torch.optim.Optimizer:
    """Adam with a step size for each weight."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, rate in sizes:
        groups.setdefault(rate, []).append(parameter)
    device = next(iter(groups.values()))[0].device
    on_gpu = device.type == "cuda"
    # A CUDA graph reads its learning rates from memory.
    rates = [torch.tensor(rate, device=device) if on_gpu else rate for rate in groups]
    # No weight decay: the fit is short, and decay parameters pulled towards 0 would forget at another rate.
    return torch.optim.Adam(
        [{"params": members, "lr": rate} for members, rate in zip(groups.values(), rates, strict=True)],
        betas=(0.9, 0.95),
        capturable=on_gpu,
        fused=on_gpu,
    )
