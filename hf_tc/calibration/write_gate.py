# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Write gate: a constant beta per head, set exactly through the bias of b_proj.

The paper's rule, 0.3 + 0.4 x concentration (arXiv 2606.16429, section 3.2), is too high for the teachers measured so
far: most heads do best with a beta below 0.3. `half_life_search` picks from these candidates.
"""

import torch
from torch import Tensor

BETA_CANDIDATES = (0.03, 0.06, 0.12, 0.25, 0.5, 0.9)
NEUTRAL_BETA = 0.5  # of a b_proj of zeros


def write_gate_bias_of(beta: Tensor) -> Tensor:
    """Bias of b_proj that gives these write gates, any shape, with a zero weight: sigmoid^-1(beta)."""
    return torch.logit(beta.double())
