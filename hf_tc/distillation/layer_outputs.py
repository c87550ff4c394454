# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far the recurrent layers of a student are from the teacher's attention at the same layers.

Each model reads the batch by itself: the teacher's attention its own hidden states, a recurrent layer those of the
student. (Alignment, before any of this, gives a layer the teacher's.) So a layer also learns to make up for what the
layers below it do differently. For a layer, and the positions t of a row that are to predict something,

    error = sum_t w_t ||y_student - y_teacher||^2 / sum_t w_t ||y_teacher||^2

is 0 for the teacher and 1 for a silent layer, as in `alignment.layerwise`; w are the token weights. A row counts by the
sum of its weights, and the layers alike. Rows stay whole, so the mean does not depend on how they are batched.

Source: stage 1 of Taylor-Calibrate (arXiv 2606.16429) is this term alone, not divided by the teacher's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.modeling import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, output_projection

SMALLEST = torch.finfo(torch.float32).eps  # of the teacher's square sum, where it is silent


class ConvertedLayers:
    """The recurrent layers of a student beside the attention that they stand for.

    Args:
        student, teacher: without their wrappers.

    Raises:
        ValueError: no recurrent layer of hf_tc, or a teacher of another shape.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        ours, theirs = (find_decoder_layers(model.base_model) for model in (student, teacher))
        self.mixers = {
            index: module
            for index, layer in enumerate(ours)
            for module in layer.modules()
            if isinstance(module, GatedDeltaNet)
        }
        if not self.mixers:
            raise ValueError(
                f"layer_weight compares recurrent layers of hf_tc with the teacher; the {type(student).__name__} has "
                "none of them. Load a student where hf_tc is imported, without trust_remote_code, or leave it at 0."
            )
        shapes = [
            (len(layers), model.config.get_text_config().hidden_size)
            for layers, model in ((ours, student), (theirs, teacher))
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"layer_weight compares layer by layer; the student has {shapes[0][0]} of width {shapes[0][1]}, the "
                f"teacher {shapes[1][0]} of width {shapes[1][1]}. Use the teacher that the student was converted from, "
                "or leave layer_weight at 0."
            )
        self.projections = {index: output_projection(find_attention(theirs[index])[1]) for index in self.mixers}

    @contextmanager
    def recording(self) -> Iterator[LayerOutputs]:
        """Collects what the layers give in the forward passes inside; a second pass of activation checkpointing, in the
        backward, is outside."""
        outputs = LayerOutputs()
        handles = [
            module.register_forward_hook(_keep(found, index))
            for modules, found in ((self.mixers, outputs.ours), (self.projections, outputs.theirs))
            for index, module in modules.items()
        ]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()


class LayerOutputs:
    """By layer, what student and teacher gave for one batch, `[B, T, C]`."""

    def __init__(self) -> None:
        self.ours: dict[int, Tensor] = {}
        self.theirs: dict[int, Tensor] = {}

    def errors(self, weights: Tensor) -> Tensor:
        """Of each row the mean over layers of the error above, times the sum of its weights: `[B]` in fp32.

        Args:
            weights: `[B, T]`, what each position counts.

        Raises:
            ValueError: activation checkpointing that runs the layers without gradients.
        """
        outputs = list(self.ours.values())
        if torch.is_grad_enabled() and not any(output.requires_grad for output in outputs):
            raise ValueError(
                "The recurrent layers give outputs without gradients, so layer_weight would teach nothing: nothing in "
                "or below them trains, or activation checkpointing has use_reentrant=True. Set that to False."
            )
        device = outputs[-1].device
        errors = [_row_errors(ours, self.theirs[index], weights).to(device) for index, ours in self.ours.items()]
        return torch.stack(errors).mean(0) * weights.to(device).sum(1)


def _row_errors(ours: Tensor, theirs: Tensor, weights: Tensor) -> Tensor:
    """The error of each row, `[B]`; 0 where no position counts."""
    target, weights = theirs.to(ours.device).float(), weights.to(ours.device)
    difference = torch.einsum("bt,btc->b", weights, (ours.float() - target).square())
    size = torch.einsum("bt,btc->b", weights, target.square())
    return difference / size.clamp(min=SMALLEST)


def _keep(found: dict[int, Tensor], index: int) -> Any:
    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        found[index] = output if isinstance(output, Tensor) else output[0]

    return keep
