# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the first token of a text adds to a layer's output, given all other weights: a weight w for each channel.

With z = SiLU(g) * v of a first token, r what its output lacks to the teacher's and W the output projection,

    argmin_w  sum ||W diag(z) w - r||^2   by   (sum (W^T W) * z z^T + ridge) w = sum z * (W^T r)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.recurrence_outputs import block_batches
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask

PRIOR_ROWS = 0.1  # of w = 0, in first tokens: enough to have one answer, since each is an equation for every channel


def solve_first_token_weight(mixer: GatedDeltaNet, captured: CapturedAttention) -> dict[str, Tensor]:
    """w `[H * V]`, from the first tokens of all blocks; the mixer, with all else solved, has none so far (w = 0)."""
    first = [
        (captured.attn_input[rows][:, :1], captured.teacher_output[rows][:, :1]) for rows in block_batches(captured)
    ]
    (x, wanted), mask = map(torch.cat, zip(*first, strict=True)), RecurrentMask()
    position = captured.position_embeddings
    rotation = None if position is None else (position[0][:, :1], position[1][:, :1])
    output, _ = mixer(x, rotation, recurrent_mask=mask)
    gated = mixer.recurrence_inputs(x, rotation, mask).v[:, 0].flatten(1) * F.silu(mixer.g_proj(x)[:, 0])
    return {"first_token_weight": weight_of(mixer.o_proj.weight, gated, (wanted - output)[:, 0])}


def weight_of(projection: Tensor, gated: Tensor, lacking: Tensor) -> Tensor:
    """w `[P]` in float32, from W `[C, P]`, z `[N, P]` and r `[N, C]`."""
    projection, gated, lacking = (tensor.double() for tensor in (projection, gated, lacking))
    gram = (projection.T @ projection) * (gated.T @ gated)
    cross = (gated * (lacking @ projection)).sum(0)[:, None]
    sums = LeastSquares(gram, cross, rows=len(gated))
    return sums.solve(prior=torch.zeros_like(cross), prior_tokens=PRIOR_ROWS)[:, 0].float()
