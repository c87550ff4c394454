# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the installed Transformers calls things that it renamed, so that tests call them by the present name."""

from typing import Any

from transformers import PreTrainedModel, TrainingArguments

RENAMED = hasattr(PreTrainedModel, "activation_checkpointing_enable")  # since 5.2x, before: gradient_checkpointing
ARGUMENT_RENAMED = hasattr(TrainingArguments, "activation_checkpointing")


def checkpoint_activations(model: Any, **kwargs: Any) -> None:
    """Recompute activations in the backward pass; kwargs are those of `torch.utils.checkpoint.checkpoint`."""
    if RENAMED:
        model.activation_checkpointing_enable(**({"activation_checkpointing_kwargs": kwargs} if kwargs else {}))
    else:
        model.gradient_checkpointing_enable(**({"gradient_checkpointing_kwargs": kwargs} if kwargs else {}))


def checkpoints_activations(model: Any) -> bool:
    return model.is_activation_checkpointing if RENAMED else model.is_gradient_checkpointing


def checkpointing_argument(on: bool) -> dict[str, bool]:
    """For `TrainingArguments`."""
    return {"activation_checkpointing" if ARGUMENT_RENAMED else "gradient_checkpointing": on}
