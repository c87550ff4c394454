# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many predictions a step counts, each as many times as its token weight says."""

from __future__ import annotations

from typing import Any

import torch

from hf_tc.distillation.collator import targets_of, weights_of
from hf_tc.evaluation.kd_loss import IGNORE_INDEX


class WeightedCountMixin:
    """For a `Trainer` whose batches may have `token_weights`; put before it."""

    args: Any
    accelerator: Any

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """As in `Trainer`, a token counting what its weight says."""
        tokens = super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]  # Trainer's
        if tokens is None:
            return None
        labelled = torch.stack([(targets_of(batch) != IGNORE_INDEX).sum() for batch in batch_samples]).sum()
        weight = torch.stack([weights_of(batch).sum() for batch in batch_samples]).sum()
        both = torch.stack([weight, labelled.to(weight)]).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            both = self.accelerator.gather(both[None]).sum(0)
        # By a mean weight, since the library divides its count where several processes share a batch.
        return tokens * (both[0] / both[1].clamp(min=1))
