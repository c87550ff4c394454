# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The decay of a recurrent layer, per query head and token.

    log alpha_t = -exp(A_log) * softplus(a_t + dt_bias),    a_t = a_proj x_t

Source: Mamba-2 (arXiv 2405.21060); Gated Delta Networks (arXiv 2412.06464), section 3.4. `hf_tc.calibration.decay` sets
A_log and dt_bias from a memory timescale.
"""

import torch
import torch.nn.functional as F


def log_decay(a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    """log alpha_t `[B, T, H]` from a `[B, T, H]` and per-head parameters `[H]`.

    In float32, whatever the model's dtype: a decay near 1 rounded to bfloat16 forgets at the wrong rate.
    """
    return -A_log.float().exp() * F.softplus(a.float() + dt_bias.float())
