# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What hf_tc has fla's kernels tuned with fits an H100, which their compiler tells without one."""

from typing import Any

import pytest
from triton_interpreter import needs_triton

from hf_tc.modeling.fla_kernels import HOPPER_CONFIGS, WIDE_HOPPER_CONFIGS, WIDEST_ROW

SHARED_MEMORY = 227 * 1024  # bytes that a block of an H100 may have
NUMBERS = {"T": "i32", "B": "i32", "scale": "fp32"}
FLOAT32_ALWAYS = {"g", "h0", "ht", "dht", "dh0", "dg"}
ABSENT = {"gk", "g_gamma", "cu_seqlens", "chunk_indices", "chunk_offsets"}
ON = ("USE_G", "USE_INITIAL_STATE", "STORE_FINAL_STATE", "SAVE_NEW_VALUE", "USE_FINAL_STATE_GRADIENT", "USE_DW")
OFF = ("USE_GK", "USE_G_GAMMA", "STATE_V_FIRST", "IS_VARLEN")
LARGE = (  # the kernels whose shared memory grows with a head's width
    "chunk_gated_delta_rule_fwd_kernel_h_blockdim64",
    "chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64",
    "chunk_bwd_kernel_dqkwg",
)


def shared_memory(name: str, head_dim: int, dtype: str, config: tuple[int, int, dict[str, int]]) -> int:
    """Bytes that a kernel of chunks of 64 tokens takes, compiled for an H100."""
    from fla.ops.common import chunk_delta_h, chunk_o
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    kernel: Any = getattr(chunk_delta_h, name, None) or getattr(chunk_o, name)
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    warps, stages, blocks = config
    tile = min(head_dim, 128)  # what fla takes of a head at once where its tuning has no word in it
    known = {"H": 4, "HV": 4, "K": head_dim, "V": head_dim, "BT": 64, "BK": tile, "BV": tile, **blocks}
    known |= dict.fromkeys(ON, True) | dict.fromkeys(OFF, False) | dict.fromkeys(ABSENT, None)
    constants = {x: known[x] for x in kernel.arg_names if x in known}
    pointer = {x: f"*{'fp32' if x in FLOAT32_ALWAYS else dtype}" for x in kernel.arg_names}
    signature = {x: "constexpr" if x in constants else NUMBERS.get(x, pointer[x]) for x in kernel.arg_names}
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    aligned: dict[Any, Any] = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    used: int = compiled(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared
    return used


@needs_triton
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", LARGE)
def test_the_widest_heads_have_a_configuration_that_fits(name: str, dtype: str) -> None:
    """With three stages, as narrow ones have, those of 256 channels, and of 128 in float32, were refused."""
    configs = WIDE_HOPPER_CONFIGS[name][::-1]
    assert any(shared_memory(name, 256, dtype, config) <= SHARED_MEMORY for config in configs)


@needs_triton
@pytest.mark.parametrize("name", LARGE)
def test_the_widest_of_narrow_heads_fit(name: str) -> None:
    for head_dim, dtype in ((WIDEST_ROW // 2, "bf16"), (WIDEST_ROW // 4, "fp32")):
        assert shared_memory(name, head_dim, dtype, HOPPER_CONFIGS[name][0]) <= SHARED_MEMORY
