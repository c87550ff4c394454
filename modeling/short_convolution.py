# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Causal depthwise convolution over a few tokens of q, k and v, which starts as the identity.

Source: Gated Delta Networks (arXiv 2412.06464), section 3.4, where SiLU always follows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class ShortConvolution(nn.Module):
    """y_t = sum_j weight[j] * x_{t-j}, channel by channel; weight `[kernel_size, channels]`, row 0: the token.

    With `activated`, SiLU(y_t).
    """

    def __init__(self, channels: int, kernel_size: int, activated: bool = False) -> None:
        super().__init__()
        self.activated = activated
        self.weight = nn.Parameter(torch.empty(kernel_size, channels))

    @property
    def kernel_size(self) -> int:
        return self.weight.shape[0]

    def forward(
        self,
        x: torch.Tensor,
        past: torch.Tensor | None = None,
        document_position: torch.Tensor | None = None,
        own_channels: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Convolves `[B, T, channels]`.

        Args:
            past: `[B, kernel_size - 1, channels]`, the tokens before; None where the sequence begins here.
            document_position: `[B, T]`, tokens since the packed document began; nothing before it is read.
            own_channels: under tensor parallelism, takes from the weight the channels that x has.
        """
        weight = self.weight if own_channels is None else own_channels(self.weight)
        y = short_convolution(x, weight, past, document_position)
        return F.silu(y) if self.activated else y

    def state_after(self, x: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        """The `past` of what follows x."""
        tail = x[:, 1 - self.kernel_size :]
        return joined(tail, past, self.kernel_size)[:, tail.shape[1] :]


def short_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    past: torch.Tensor | None = None,
    document_position: torch.Tensor | None = None,
) -> torch.Tensor:
    """`[B, T, channels]`; arguments as in `ShortConvolution`. `fused_convolution` has the same for GPUs."""
    kernel_size, length = weight.shape[0], x.shape[1]
    window = joined(x, past, kernel_size)
    if document_position is None and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # As an image of height 1, whose channels are dense: conv1d would transpose it, and be no faster than the sum.
        image, kernel = window.transpose(1, 2)[:, :, None], weight.flip(0).t()[:, None, None]
        return F.conv2d(image, kernel, groups=x.shape[-1])[:, :, 0].transpose(1, 2)
    output = x * weight[0]
    for back in range(1, kernel_size):
        shifted = window[:, kernel_size - 1 - back :][:, :length]
        if document_position is not None:
            shifted = shifted * (document_position >= back)[..., None]
        output = output + shifted * weight[back]
    return output


def joined(x: torch.Tensor, past: torch.Tensor | None, kernel_size: int) -> torch.Tensor:
    """The `kernel_size - 1` tokens before, zeros where there are none, and x."""
    if past is None:
        return F.pad(x, (0, 0, kernel_size - 1, 0))
    return torch.cat([past.to(x.dtype), x], dim=1)
