# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""vLLM's Triton kernels without vLLM: from a folder that holds a few of its files, where it is not installed.

The kernels import little of the rest, for which this stands in. So they can be tried where no vLLM can be installed,
and on a CPU by Triton's interpreter (TRITON_INTERPRET=1).
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

FILES = ("third_party/flash_linear_attention/ops/*.py", "model_executor/layers/mamba/ops/causal_conv1d.py")
PACKAGES = (
    "vllm",
    "vllm.third_party",
    "vllm.third_party.flash_linear_attention",
    "vllm.third_party.flash_linear_attention.ops",
    "vllm.model_executor",
    "vllm.model_executor.layers",
    "vllm.model_executor.layers.mamba",
    "vllm.model_executor.layers.mamba.ops",
    "vllm.utils",
    "vllm.v1",
    "vllm.v1.attention",
    "vllm.v1.attention.backends",
)


def use_bare_kernels(folder: Path) -> None:
    """Makes the kernels below `folder`, a package `vllm` or a part of it with `FILES`, importable by vLLM's names."""
    for name in PACKAGES:  # their own __init__ files, which import much, are not run
        module = ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    for name, values in _stand_ins().items():
        module = ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module


def _stand_ins() -> dict[str, dict[str, Any]]:
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice

    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 9
    platform = SimpleNamespace(
        is_cuda_alike=torch.cuda.is_available,
        is_rocm=lambda: False,
        is_cpu=lambda: False,
        is_arch_support_pdl=lambda: hopper,
    )
    return {
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"triton": triton, "tl": tl, "tldevice": libdevice},
        "vllm.utils.gpu_sync_debug": {"gpu_sync_allowed": nullcontext},
        "vllm.utils.torch_utils": {"async_tensor_h2d": lambda x, device, dtype=None: x.to(device, dtype or x.dtype)},
        "vllm.v1.attention.backends.utils": {"PAD_SLOT_ID": -1, "NULL_BLOCK_ID": 0},
    }
