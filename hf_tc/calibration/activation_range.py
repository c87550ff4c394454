# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far q, k and v reach into the SiLU that follows a convolution, set by the size of its taps.

    SiLU(z) = z / 2 + z^2 / 4 - ...,   z_t = tap * (W x)_t

For small z that is a line, through which a layer does what it would do without the activation: the L2 norm takes the
length of q and k out again, and the output norm that of the values. Smaller is nearer to a line, until the epsilons of
the norms are seen; larger leaves a later training more of the activation's curve.
"""

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.recurrence_outputs import block_batches
from hf_tc.modeling.gated_deltanet import GatedDeltaNet

SIZE = 0.05  # root mean square of z, each head
SLOPE = 0.5  # of SiLU at 0, and its mean over any symmetric z


def is_activated(mixer: GatedDeltaNet) -> bool:
    """Whether SiLU follows the convolution of a mixer."""
    return mixer.short_conv is not None and mixer.short_conv.activated


def solve_activation_range(mixer: GatedDeltaNet, captured: CapturedAttention, size: float = SIZE) -> dict[str, Tensor]:
    """Taps of the convolution `[kernel_size, channels]`, the identity times a factor for each head of q, k and v."""
    assert mixer.short_conv is not None
    total, tokens = torch.zeros((), device=captured.attn_input.device), 0
    for rows in block_batches(captured):
        by_head = mixer.project(captured.attn_input[rows]).unflatten(-1, (-1, mixer.head_dim))
        total = total + by_head.square().mean(-1).sum((0, 1))
        tokens += by_head.shape[0] * by_head.shape[1]
    taps = torch.zeros_like(mixer.short_conv.weight)
    taps[0] = (size * (total / tokens).clamp_min(1e-20).rsqrt()).repeat_interleave(mixer.head_dim)
    return {"short_conv.weight": taps}


def silu_slope(z: Tensor) -> Tensor:
    """d SiLU(z) / dz."""
    sigmoid = z.sigmoid()
    return sigmoid * (1 + z * (1 - sigmoid))
