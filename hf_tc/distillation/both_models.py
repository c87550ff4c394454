# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A batch through student and teacher, up to what a loss or an evaluation makes of it, within one forward of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from hf_tc.distillation.collator import targets_of, weights_of
from hf_tc.distillation.layer_outputs import ConvertedLayers
from hf_tc.distillation.teacher_cache import top_k_of
from hf_tc.distillation.teacher_placement import beside, inside_forward
from hf_tc.evaluation.kd_loss import LazyLogits
from hf_tc.evaluation.lm_head import BackboneThenHead, call_through_wrapper
from hf_tc.evaluation.sharded_head import gather_with_model, is_sharded
from hf_tc.evaluation.top_k import TOP_K_COLUMNS, TopK


class BothModelsMixin:
    """For a `Trainer` with a `teacher`, or None, whose models are split; a `ConvertedLayers` if layers are compared."""

    args: Any
    accelerator: Any
    teacher: Any
    _student_parts: BackboneThenHead
    _teacher_parts: BackboneThenHead
    _converted_layers: ConvertedLayers | None

    def _through_both(
        self, chunked: Callable[..., Any] | None, model: nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[Any, Tensor, Tensor]:
        """Run student and teacher on a batch and give their logits, not computed yet, to a `chunked_*` if there is one.

        Returns:
            What that gives; the errors of the recurrent layers [B], see `LayerOutputs`, or zeros where they do not
            count; and the load-balancing loss of the student's routers, a number.
        """
        student, compared = self._student_parts, self._converted_layers
        nothing = torch.zeros(len(targets_of(inputs)), device=self.args.device)

        def compute() -> Any:
            with self.accelerator.autocast():
                with nullcontext() if compared is None else compared.recording() as outputs:
                    taught = self._teacher_of(inputs)
                    student_hidden, router_loss = student.hidden_states_and_router_loss(inputs)
                layer_errors = nothing if outputs is None else outputs.errors(weights_of(inputs))
                if chunked is None:
                    if is_sharded(model):  # which brings a layer's weights back for a gradient of its output
                        layer_errors = layer_errors + 0.0 * student_hidden.sum()
                    return (None, layer_errors, router_loss), student_hidden
                ours = student.lazy_logits(student_hidden)
                if self.args.chunk_tokens:  # a size of pieces is asked for, and TRL's kernels have their own
                    ours = ours._replace(linear=None)
                losses = chunked(
                    ours,
                    taught,
                    targets_of(inputs),
                    self.args.objective,
                    chunk_tokens=self.args.chunk_tokens or student.tokens_at_once,
                )
                return (losses, layer_errors, router_loss), student_hidden

        def forward(_: Mapping[str, Any]) -> Any:
            return inside_forward(self.teacher, compute)

        gather_with_model(student.model.get_output_embeddings(), self.accelerator.unwrap_model(model))
        return call_returning_all(model, self.accelerator.unwrap_model(model), forward, inputs)

    @torch.no_grad()
    def _teacher_of(self, inputs: Mapping[str, Any]) -> LazyLogits | TopK:
        """The predictions that a batch brings, or the teacher's logits, not computed yet."""
        if (cached := top_k_of(inputs)) is not None:
            return cached
        if self.teacher is None:
            raise ValueError(
                f"teacher is None and a batch has no predictions of one (columns {', '.join(TOP_K_COLUMNS)}). Give a "
                "teacher, or make the data with hf_tc.cache_teacher."
            )
        teacher = self._teacher_parts
        return teacher.lazy_logits(teacher.hidden_states(beside(teacher, inputs)))


def call_returning_all(
    wrapper: nn.Module, module: nn.Module, function: Callable[[Any], tuple[Any, Tensor]], inputs: Any
) -> Any:
    """`call_through_wrapper` of a function that gives its results and the hidden states before the head; the results.

    FSDP2 rounds what a forward returns to 16 bits under mixed precision. It needs it only to see when the backward
    begins, and for that it gets the hidden states.
    """
    found: list[Any] = []
    is_fsdp2 = isinstance(wrapper, FSDPModule)

    def forward(inner_inputs: Any) -> Any:
        results, hidden = function(inner_inputs)
        found.append(results)
        return hidden if is_fsdp2 else results

    returned = call_through_wrapper(wrapper, module, forward, inputs)
    return found[0] if is_fsdp2 else returned
