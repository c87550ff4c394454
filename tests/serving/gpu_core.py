# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrence of the vLLM plugin on a GPU, by vLLM's kernels, against hf_tc's own in float32; exits with 1 if not.

    python tests/serving/gpu_core.py FOLDER

FOLDER is an unpacked wheel's `vllm`, or a copy with the files that `bare_kernels.FILES` names. Sequences of 1 to 700
tokens go through the layer in steps as vLLM plans them: whole, in chunks, beside others that decode, and decoding alone
in a CUDA graph with empty rows. Each figure is a relative error: the norm of the difference over that of hf_tc's.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "testing"))

from bare_kernels import use_bare_kernels
from paged_steps import Part, dirty_states, paged_batch

from hf_tc.vllm_plugin import torch_core
from hf_tc.vllm_plugin.paged_batch import PagedBatch, PagedInputs, PagedStates

TOLERANCE = 2e-2  # of bfloat16 and float16 with products in them, against float32
ROWS = 8
STEPS = {
    "whole": [[Part(1, 200, True), Part(2, 64, True), Part(3, 63, True), Part(4, 1, True), Part(5, 700, True)]],
    "chunks": [
        [Part(1, 64, True), Part(2, 65, True)],
        [Part(1, 64), Part(3, 1, True), Part(2, 300)],
        [Part(3, 1), Part(1, 72), Part(2, 1)],
    ],
    "decoding": [[Part(1, 90, True), Part(2, 3, True), Part(3, 1, True)], *[[Part(i, 1) for i in (1, 2, 3)]] * 6],
    "mixed": [
        [Part(1, 90, True)],
        *([Part(1, 1), Part(2, 70, begins)] for begins in (True, False, False)),
        [Part(2, 1), Part(1, 1), Part(3, 129, True)],
    ],
}


class Case(NamedTuple):
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    kernel_size: int = 4
    activation: str | None = None
    turned: bool = False  # the convolution's states in vLLM's other layout

    @property
    def channels(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


CASES = [
    Case(torch.bfloat16, 4, 2, 64),
    Case(torch.float16, 4, 2, 64),
    Case(torch.bfloat16, 8, 2, 128),
    Case(torch.bfloat16, 2, 2, 32, kernel_size=2),
    Case(torch.bfloat16, 2, 1, 96, kernel_size=3, activation="silu"),
    Case(torch.bfloat16, 4, 4, 64, turned=True),
    Case(torch.bfloat16, 2, 1, 256),
]


class Layer:
    """What the plugin's mixer does between its projections, without norms and rotation, by one of the two cores."""

    def __init__(self, core: Any, case: Case, device: str, dtype: torch.dtype) -> None:
        self.core, self.case = core, case
        generator = torch.Generator().manual_seed(0)
        taps = 0.5 * torch.randn(case.channels, case.kernel_size, generator=generator)
        self.taps = taps.to(case.dtype).to(device, dtype)
        like = torch.empty(0, dtype=dtype, device=device)
        self.states = dirty_states(ROWS, case.channels, case.kernel_size, case.heads, case.head_dim, like, case.turned)

    def __call__(self, x: torch.Tensor, gates: torch.Tensor, batch: PagedBatch) -> torch.Tensor:
        """`[T, channels]` and `[2, T, H]` to `[T, H, V]`."""
        case = self.case
        qkv = self.core.convolve(x, self.taps, self.states, batch, case.activation)
        sizes = [case.heads * case.head_dim, case.kv_heads * case.head_dim, case.kv_heads * case.head_dim]
        q, k, v = (z.unflatten(-1, (-1, case.head_dim)) for z in qkv.split(sizes, dim=-1))
        k, v = (z.repeat_interleave(case.heads // case.kv_heads, dim=1) for z in (k, v))
        decay, beta = -torch.nn.functional.softplus(gates[0] - 2), gates[1].sigmoid()
        return self.core.delta_rule(PagedInputs(q, k, v, decay, beta), self.states, batch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vllm", type=Path)
    use_bare_kernels(parser.parse_args().vllm)
    from hf_tc.vllm_plugin import kernel_core

    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    kernel_core.tune(torch.device("cuda", 0), torch.bfloat16, 4, 64)
    worst = 0.0
    for case, (name, steps) in itertools.product(CASES, STEPS.items()):
        errors = compare(kernel_core, case, steps, "cuda")
        worst = max(worst, *errors.values())
        print(f"{case} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in errors.items()), flush=True)
    error = graph_error(kernel_core, CASES[0])
    worst = max(worst, error)
    print(f"decoding in a CUDA graph against the same without: {error:.1e}")
    print(f"worst {worst:.1e}, allowed {TOLERANCE:.0e}: {'passed' if worst <= TOLERANCE else 'FAILED'}")
    return int(not worst <= TOLERANCE)


@torch.no_grad()
def compare(kernel_core: Any, case: Case, steps: list[list[Part]], device: str) -> dict[str, float]:
    """Relative errors of outputs, and of the states after the last step."""
    ours, expected = Layer(kernel_core, case, device, case.dtype), Layer(torch_core, case, "cpu", torch.float32)
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for parts in steps:
        tokens = sum(part.tokens for part in parts)
        x = torch.randn(tokens, case.channels, generator=generator).to(case.dtype)
        gates = torch.randn(2, tokens, case.heads, generator=generator)
        given = x.to(device)
        output = ours(given, gates.to(device), paged_batch(parts, device))
        if not torch.equal(given.cpu(), x):
            raise AssertionError("The core wrote to its input.")
        worst = max(worst, relative_error(output, expected(x.float(), gates, paged_batch(parts))))
    rows = sorted({part.slot for parts in steps for part in parts})
    conv = relative_error(ours.states.conv[rows], expected.states.conv[rows])
    recurrent = relative_error(ours.states.recurrent[rows], expected.states.recurrent[rows].transpose(-1, -2))
    return {"output": worst, "convolution's state": conv, "recurrent state": recurrent}


def relative_error(x: torch.Tensor, expected: torch.Tensor) -> float:
    error = float((x.float().cpu() - expected).norm() / expected.norm())
    return error if math.isfinite(error) else math.inf


@torch.no_grad()
def graph_error(kernel_core: Any, case: Case) -> float:
    """Three sequences and two empty rows decode in a graph captured once; against the same steps without a graph."""
    layers = [Layer(kernel_core, case, "cuda", case.dtype) for _ in range(2)]
    begin = [Part(1, 70, True), Part(2, 5, True), Part(3, 130, True)]
    x, gates = torch.randn(205, case.channels, device="cuda"), torch.randn(2, 205, case.heads, device="cuda")
    for layer in layers:
        layer(x.to(case.dtype), gates, paged_batch(begin, "cuda"))
    decode = paged_batch([*(Part(slot, 1) for slot in (1, 2, 3)), Part(0, 1), Part(0, 1)], "cuda")
    x, gates = (
        torch.zeros(5, case.channels, dtype=case.dtype, device="cuda"),
        torch.zeros(2, 5, case.heads, device="cuda"),
    )
    saved = PagedStates(*(state.clone() for state in layers[0].states))
    layers[0](x, gates, decode)  # what Triton compiles may not be compiled during a capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = layers[0](x, gates, decode)
    for state, before in zip(layers[0].states, saved, strict=True):
        state.copy_(before)
    worst = 0.0
    for _ in range(5):
        x.copy_(torch.randn_like(x))
        gates.copy_(torch.randn_like(gates))
        expected = layers[1](x, gates, decode)[:3]
        graph.replay()
        worst = max(worst, relative_error(replayed[:3], expected.float().cpu()))
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
