# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tokens a second of a training step: teacher, student, and the library's own Gated DeltaNet model of equal size.

    python -m tests.benchmarks.training_step [--shape 135m] [--batch 8 --length 1024] [--torch-form]

A step is forward and backward of the model's own cross-entropy on random tokens, float32 weights under bfloat16
autocast (float32 on a CPU). --torch-form measures the student as on a machine without flash-linear-attention.
"""

import argparse
import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_tc.modeling import gated_delta_rule

from .bench import Results, clock, parser_of
from .shapes import SHAPES, built, library_hybrid, peak_gb, seconds_of, student, teacher

COLUMNS = ["model", "first step s", "step ms", "tokens/s", "to teacher", "peak GB"]


def main() -> None:
    options = parse()
    if options.torch_form:
        gated_delta_rule.fla_is_usable = lambda *shape: False
    results = Results(options.out, COLUMNS, benchmark="training_step", **{k: str(v) for k, v in vars(options).items()})
    results.heading(f"{results.content['machine']}, {options.shape}, {options.batch} x {options.length}")
    models = {"teacher": teacher, "student": student, "library's Gated DeltaNet": library_hybrid}
    tokens, of_teacher = options.batch * options.length, 0.0
    for name in options.models or models:
        model = built(models[name](options.shape, options.length), options.device, torch.float32).train()
        step = training_step(model, options)
        start = clock()
        step()
        first = clock() - start
        seconds, peak = seconds_of(step, options.warm, options.steps), peak_gb(step)
        of_teacher = of_teacher or seconds
        row = {"first step s": first, "step ms": 1e3 * seconds, "tokens/s": round(tokens / seconds), "peak GB": peak}
        results.add(model=name, **row, **{"to teacher": of_teacher / seconds})
        del model, step
        gc.collect()


def training_step(model: PreTrainedModel, options: argparse.Namespace) -> Callable[[], Any]:
    generator = torch.Generator(options.device).manual_seed(options.seed)
    shape = (options.batch, options.length)
    ids = torch.randint(model.config.vocab_size, shape, device=options.device, generator=generator)
    on_gpu = torch.device(options.device).type != "cpu"

    def step() -> None:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=on_gpu):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        model.zero_grad()

    return step


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="training_step.json")
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--warm", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--torch-form", action="store_true")
    parser.add_argument("--models", nargs="+", help="some of the three, the teacher first")
    return parser.parse_args()


if __name__ == "__main__":
    main()
