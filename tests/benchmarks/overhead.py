# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the student's wrapper costs: a student with no converted layer against the teacher's own class.

    python -m tests.benchmarks.overhead [--device cuda]

Both models have the same weights and take turns, call by call, so that a change of the machine's pace meets both alike;
the ratio is of medians. Prints the ratio for a forward pass and for a decode step.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from hf_tc.modeling.library_cache import cache_argument, cache_of
from hf_tc.teachers.new_student import build_student

PROMPT, ROUNDS = 512, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    config = Qwen3Config(
        vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(config).to(device).eval()
    student = build_student(teacher, ["full_attention"] * config.num_hidden_layers).eval()
    ids = torch.randint(0, config.vocab_size, (1, PROMPT), device=device)
    print("| call | student / teacher, ratio of medians |\n|---|---|")
    with torch.no_grad():
        assert torch.equal(teacher(ids).logits, student(ids).logits)
        print(f"| forward, {PROMPT} tokens | {ratio(lambda m: lambda: m(ids), student, teacher):.3f} |")
        print(f"| decode step | {ratio(lambda m: decode_step(m, ids), student, teacher):.3f} |")


def decode_step(model: Any, ids: torch.Tensor) -> Callable[[], Any]:
    cache = cache_of(model(ids, use_cache=True))
    return lambda: model(ids[:, :1], **cache_argument(cache))


def ratio(make: Callable[[Any], Callable[[], Any]], student: Any, teacher: Any) -> float:
    """Median seconds of the student's call over the teacher's, the two taken in turns."""
    calls, seconds = (make(student), make(teacher)), ([], [])  # type: ignore[var-annotated]
    for number in range(ROUNDS + 5):
        for call, spent in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= 5:  # the first calls warm up
                spent.append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


if __name__ == "__main__":
    main()
