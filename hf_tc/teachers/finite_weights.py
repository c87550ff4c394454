# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether every weight of a model is a number; one NaN makes all that is computed from it NaN."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.teachers.offloading import stored_weights


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; of a tensor in shards (a DTensor, or ZeRO-3's), those of this process."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else getattr(tensor, "ds_tensor", tensor)
    return not local.is_floating_point() or bool(local.isfinite().all())


def check_finite_weights(model: PreTrainedModel, role: str) -> None:
    """Raises ValueError for the first weight of a "teacher" or "student" that is NaN or infinite.

    Offloaded weights and those in 8 bits are read one at a time; so are the shards that a process holds.
    """
    for name, tensor in stored_weights(model, role):
        if not is_finite(tensor):
            bad = tensor.numel() - int(tensor.isfinite().sum())
            raise ValueError(
                f"The {role}'s {name} has {bad} of {tensor.numel()} values that are NaN or infinite; every weight "
                "must be finite. Load the checkpoint again, in bfloat16 or float32 if this was float16."
            )
