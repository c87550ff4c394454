# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What hf_tc has fla's kernels tuned with fits an H100, which their compiler tells without one."""

from typing import Any

import pytest
from triton_interpreter import needs_triton

from hf_tc.modeling.fla_kernels import HOPPER_CONFIGS, WIDE_HOPPER_CONFIGS, WIDEST_ROW

SHARED_MEMORY = 227 * 1024  # bytes that a block of an H100 may have
POINTERS = {"q", "k", "v", "w", "v_new", "h", "dh", "do", "dv", "dv2", "g", "h0", "ht", "dht", "dh0"}
FLOAT32_ALWAYS = {"g", "h0", "ht", "dht", "dh0"}
SWITCHES = {name: True for name in ("USE_G", "USE_INITIAL_STATE", "STORE_FINAL_STATE", "SAVE_NEW_VALUE")}
SWITCHES |= {"USE_FINAL_STATE_GRADIENT": True, "USE_GK": False, "STATE_V_FIRST": False, "IS_VARLEN": False}


def shared_memory(name: str, head_dim: int, dtype: str, config: tuple[int, int, dict[str, int]]) -> int:
    """Bytes that a kernel of chunks of 64 tokens takes, compiled for an H100."""
    from fla.ops.common import chunk_delta_h
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    kernel: Any = getattr(chunk_delta_h, name)
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    warps, stages, blocks = config
    sizes = {"H": 4, "HV": 4, "K": head_dim, "V": head_dim, "BT": 64, **blocks}
    constants = {x: {**SWITCHES, **sizes}.get(x) for x in kernel.arg_names if x not in POINTERS | {"T", "scale"}}
    kinds = {x: f"*{'fp32' if x in FLOAT32_ALWAYS else dtype}" for x in kernel.arg_names if x in POINTERS}
    signature = dict.fromkeys(constants, "constexpr") | kinds | {"T": "i32", "scale": "fp32"}
    signature = {x: signature[x] for x in kernel.arg_names}
    aligned: dict[Any, Any] = {(i,): [["tt.divisibility", 16]] for i, x in enumerate(signature) if x in POINTERS}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    used: int = compiled(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared
    return used


@needs_triton
@pytest.mark.parametrize("name", WIDE_HOPPER_CONFIGS)
def test_the_widest_heads_have_a_configuration_that_fits(name: str) -> None:
    """With three stages, as narrow ones have, those of 256 channels, and of 128 in float32, were refused."""
    assert any(shared_memory(name, 256, "fp32", config) <= SHARED_MEMORY for config in WIDE_HOPPER_CONFIGS[name][::-1])


@needs_triton
def test_the_widest_of_narrow_heads_fit() -> None:
    name = "chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64"
    for head_dim, dtype in ((WIDEST_ROW // 2, "bf16"), (WIDEST_ROW // 4, "fp32")):
        assert shared_memory(name, head_dim, dtype, HOPPER_CONFIGS[name][0]) <= SHARED_MEMORY
