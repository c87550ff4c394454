# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Parameters of a recurrent layer that vLLM has no module for: one rank's share, loaded from the whole tensors."""

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.model_loader.weight_utils import sharded_weight_loader
from vllm.model_executor.utils import set_weight_attrs


class ConvolutionWeight(nn.Module):
    """The short convolution's `weight`, `[channels, kernel_size]` with the token's tap last, as vLLM's kernels read it.

    A student saves it as `[kernel_size, channels]`, the token's tap first.
    """

    def __init__(self, sizes: tuple[int, int, int], kernel_size: int) -> None:
        """`sizes`: channels of q, k and v on all ranks."""
        super().__init__()
        self.sizes = sizes
        channels = sum(sizes) // get_tensor_model_parallel_world_size()
        self.weight = nn.Parameter(torch.empty(channels, kernel_size), requires_grad=False)
        set_weight_attrs(self.weight, {"weight_loader": self.load})

    def load(self, parameter: nn.Parameter, weight: torch.Tensor) -> None:
        """This rank's channels of q, of k and of v."""
        ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        own = [part.chunk(ranks, dim=1)[rank] for part in weight.split(self.sizes, dim=1)]
        parameter.data.copy_(torch.cat(own, dim=1).flip(0).t())


def head_parameter(size: int) -> nn.Parameter:
    """A number for each of this rank's heads, or of their channels, in float32."""
    parameter = nn.Parameter(torch.empty(size, dtype=torch.float32), requires_grad=False)
    set_weight_attrs(parameter, {"weight_loader": sharded_weight_loader(0)})
    return parameter
