# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Ridge regression towards a prior, from streamed sums: the solver of the closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

# How many tokens of data the prior is worth. With few calibration tokens the solution stays near what is known (the
# teacher's weights, a constant gate), with many the data decide. Found on the 22 M bench teacher.
PRIOR_TOKENS = 650.0


@dataclass
class LeastSquares:
    """Sums of a regression of targets `[.., M]` on features `[.., P]`, in float64; adding batches adds up."""

    gram: Tensor  # [P, P]
    cross: Tensor  # [P, M]
    rows: int = 0

    @classmethod
    def empty(cls, features: int, targets: int, device: torch.device) -> "LeastSquares":
        zeros = torch.zeros(features, features + targets, dtype=torch.float64, device=device)
        gram, cross = zeros.split([features, targets], dim=1)
        return cls(gram, cross)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Adds rows: features `[.., P]`, targets `[.., M]`. Products in the inputs' dtype, sums in float64."""
        features, targets = features.flatten(0, -2), targets.flatten(0, -2)
        self.gram = self.gram + features.T @ features
        self.cross = self.cross + features.T @ targets
        self.rows += len(features)

    def solve(self, *, prior: Tensor, prior_tokens: float = PRIOR_TOKENS) -> Tensor:
        """argmin_W ||features W - targets||^2 + lambda ||W - prior||^2, `[P, M]` in float64.

        `lambda` is `prior_tokens` rows of average size: the mean of the Gram diagonal per row, times their number.
        """
        strength = prior_tokens / max(self.rows, 1) * self.gram.diagonal().mean().clamp_min(1e-30)
        system = self.gram + strength * torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        return torch.linalg.solve(system, self.cross + strength * prior.double())
