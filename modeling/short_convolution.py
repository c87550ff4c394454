# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Causal depthwise convolution of a few taps over q, k and v, which starts as the identity."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class ShortConvolution(nn.Module):
    """y_t = sum_j weight[j] * x_{t-j}, channel by channel; weight `[kernel_size, channels]`, row 0: the token."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel_size, channels))

    @property
    def kernel_size(self) -> int:
        return self.weight.shape[0]

    def forward(
        self,
        window: torch.Tensor,
        document_position: torch.Tensor | None = None,
        own_channels: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Convolves.

        Args:
            window: `[B, kernel_size - 1 + T, channels]`, the tokens before the first output, then the T new ones.
            document_position: `[B, T]`, tokens since the packed document began; taps never reach before it.
            own_channels: under tensor parallelism, takes from the weight the channels that the window has.

        Returns:
            `[B, T, channels]`.
        """
        weight = self.weight if own_channels is None else own_channels(self.weight)
        length = window.shape[1] - self.kernel_size + 1
        output = window[:, self.kernel_size - 1 :] * weight[0]
        for tap in range(1, self.kernel_size):
            shifted = window[:, self.kernel_size - 1 - tap :][:, :length]
            if document_position is not None:
                shifted = shifted * (document_position >= tap)[..., None]
            output = output + shifted * weight[tap]
        return output


def pad_left(x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """The window of a sequence that begins here: `kernel_size - 1` zeros, then x `[B, T, channels]`."""
    return F.pad(x, (0, 0, kernel_size - 1, 0))
