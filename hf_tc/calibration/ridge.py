# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Ridge regression towards a prior, from streamed sums: the solver of the closed form."""

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

# How many tokens of data the prior is worth. With few calibration tokens the solution stays near what is known (the
# teacher's weights, a constant gate), with many the data decide. Found on the 22 M bench teacher.
PRIOR_TOKENS = 650.0


@dataclass
class LeastSquares:
    """Sums of a regression of targets `[.., M]` on features `[.., P]`, in float64; adding batches adds up.

    Or of several such problems, one a head, with equally many rows: then `heads` comes first in all shapes.
    """

    gram: Tensor  # [P, P]
    cross: Tensor  # [P, M]
    rows: int = 0  # of all problems together

    @classmethod
    def empty(cls, features: int, targets: int, device: torch.device, heads: int | None = None) -> "LeastSquares":
        problems = () if heads is None else (heads,)
        zeros = torch.zeros(*problems, features, features + targets, dtype=torch.float64, device=device)
        gram, cross = zeros.split([features, targets], dim=-1)
        return cls(gram, cross)

    def add(self, features: Tensor, targets: Tensor, heads: int | slice | EllipsisType = ...) -> None:
        """Adds rows: features `[.., P]`, targets `[.., M]`. Products in the inputs' dtype, sums in float64.

        Args:
            heads: whose they are, all problems' by default; with a slice, features and targets begin with these.
        """
        gram, cross = self.gram[heads], self.cross[heads]
        features, targets = (x.flatten(gram.dim() - 2, -2) for x in (features, targets))
        gram += features.mT @ features
        cross += features.mT @ targets
        self.rows += features.shape[:-1].numel()

    def solve(self, *, prior: Tensor, prior_tokens: float = PRIOR_TOKENS) -> Tensor:
        """argmin_W ||features W - targets||^2 + lambda ||W - prior||^2, `[P, M]` in float64.

        `lambda` is `prior_tokens` rows of average size: the mean of the Gram diagonal per row, times their number.
        Where there is no answer it is not finite.
        """
        grams = self.gram.view(-1, *self.gram.shape[-2:])
        rows, features = max(self.rows / len(grams), 1), grams.shape[-1]
        size = grams.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
        strength = (prior_tokens / rows * size)[:, None, None]
        right_side = self.cross.view(len(grams), features, -1) + strength * prior.double().view(
            len(grams), features, -1
        )
        identity = torch.eye(features, dtype=torch.float64, device=grams.device)
        # One after the other: with several threads, torch 2.13 with MKL solves batches wrong on a CPU, or not at all.
        # solve_ex does not wait for a GPU to say that a system was singular.
        problems = zip(grams, strength, right_side, strict=True)
        solved = [torch.linalg.solve_ex(gram + ridge * identity, right)[0] for gram, ridge, right in problems]
        return torch.stack(solved).view_as(self.cross)
