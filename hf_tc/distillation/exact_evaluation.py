# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Evaluation during a distillation: means over the labelled tokens of the data set, not over batches; with
`token_weights` weighted ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_tc.distillation.collator import targets_of, weights_of
from hf_tc.distillation.config import LESS_MEMORY_IN_EVALUATION
from hf_tc.evaluation.kd_loss import IGNORE_INDEX, chunked_metrics, perplexity_from_nll
from hf_tc.modeling.out_of_memory import memory_advice

# Sums of these, and after them of weights, errors of layers, router losses and examples.
EVALUATED = ("objective", "kl", "student_nll", "teacher_nll")


class ExactEvaluationMixin:
    """For a `Trainer` whose `_through_both` gives `kd_loss.chunked_metrics` of a batch, the errors of its layers and
    its router loss."""

    args: Any
    accelerator: Any
    _through_both: Callable[..., Any]
    _prepare_inputs: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._evaluation_sums = torch.zeros(len(EVALUATED) + 4, dtype=torch.float64)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """Mean objective of one evaluation batch, while the sums over its examples are kept; no logits are returned."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            metrics, layer_errors, router_loss = self._through_both(chunked_metrics, model, inputs)
        targets = targets_of(inputs)
        example_of_token = (targets != IGNORE_INDEX).nonzero()[:, 0].to(metrics.kl.device)
        weights = weights_of(inputs)[targets != IGNORE_INDEX].to(metrics.kl)
        per_token = torch.stack([getattr(metrics, name) * weights for name in EVALUATED] + [weights], dim=-1)
        per_example = per_token.new_zeros(len(targets), per_token.shape[1]).index_add_(0, example_of_token, per_token)
        router_columns = per_token.new_tensor([router_loss, 1.0]).expand(len(targets), 2)  # its mean is over examples
        per_example = torch.cat([per_example, layer_errors[:, None].to(per_example), router_columns], dim=1)
        # Drops the examples that a distributed sampler repeats to fill the last batch.
        gathered = self.accelerator.gather_for_metrics(per_example)
        self._evaluation_sums += gathered.cpu().double().sum(0)
        distribution, layers = metrics.objective @ weights, layer_errors.sum().to(weights)
        summed = self.args.distribution_weight * distribution + self.args.layer_weight * layers
        return summed / weights.sum().clamp(min=1e-9) + router_loss, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """`Trainer.evaluation_loop` with the exact token means in place of its mean over batches."""
        self._evaluation_sums.zero_()
        with memory_advice(LESS_MEMORY_IN_EVALUATION):
            output = super().evaluation_loop(  # type: ignore[misc]  # Trainer's
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        *sums, weight, layers, router_loss, examples = self._evaluation_sums.tolist()
        if weight == 0:
            raise ValueError(
                "No token of the evaluation dataset is labelled, so there is nothing to measure. Examples need at "
                "least two tokens, some labels that are not -100, and some token_weights, if there are any, above 0."
            )
        objective, kl, student_nll, teacher_nll, layer_error = (value / weight for value in (*sums, layers))
        loss = self.args.distribution_weight * objective + self.args.layer_weight * layer_error
        metrics = {
            "loss": loss + router_loss / examples,
            "kl": kl,
            "student_perplexity": perplexity_from_nll(student_nll),
            "teacher_perplexity": perplexity_from_nll(teacher_nll),
        }
        if self.args.layer_weight:
            metrics["layer_error"] = layer_error
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics={**(output.metrics or {}), **prefixed})
