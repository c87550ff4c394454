# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc demo`: the packaged teacher becomes a student, and every step of it is shown."""

from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
    set_seed,
)

import hf_tc
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.modeling.library_cache import cache_of

PROMPT = "It was a dark night, and the old man"
CACHE_TOKENS = 1000
SETTINGS = {"calibration_tokens": 16_384, "sequence_length": 512, "alignment_steps": 160}


def demo(out: Path, console: Console) -> None:
    """Converts the packaged teacher into the folder `out` and prints what happened."""
    console.rule("hf_tc demo: a Transformer becomes a hybrid")
    console.print(
        "Teacher: the 2.5 M parameter Qwen3 packaged with hf_tc. A quarter of its layers keep softmax attention, the "
        "others become Gated DeltaNet."
    )
    student = hf_tc.HybridGDNForCausalLM.from_teacher(
        tiny_teacher_path(),
        calibration_data=sample_text_path("calibration"),
        evaluation_data=sample_text_path("heldout"),
        dtype=torch.float32,
        **SETTINGS,
    )
    student.save_pretrained(out)
    student.conversion_report.print(console)
    reloaded = AutoModelForCausalLM.from_pretrained(out)
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for name, model in (("teacher", teacher), ("student, reloaded", reloaded)):
        console.print(f"[bold]{name}:[/bold] {_continuation(model, tokenizer)}\n", highlight=False)
    console.print(_cache_table({"teacher": teacher, "student": reloaded}))
    console.print(f"The student is in {out.resolve()}. It loads with AutoModelForCausalLM.from_pretrained.")
    console.print(
        f"Next: hf-tc distill {out} --teacher {tiny_teacher_path()} --data YOUR.txt --out distilled --tokens 1000000",
        soft_wrap=True,
        highlight=False,
    )


def _continuation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    set_seed(0)
    generate: Any = pipeline("text-generation", model=model, tokenizer=tokenizer)  # type: ignore[call-overload]
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "max_new_tokens": 60}
    return generate(PROMPT, **sampling)[0]["generated_text"]


def _cache_table(models: dict[str, PreTrainedModel]) -> Table:
    table = Table(title="Cache of one sequence", box=SIMPLE_HEAD)
    table.add_column("model")
    table.add_column(f"bytes at {CACHE_TOKENS:,} tokens", justify="right")
    table.add_column("bytes per further 1k tokens", justify="right")
    for name, model in models.items():
        short, long = (cache_bytes(model, tokens) for tokens in (CACHE_TOKENS, 2 * CACHE_TOKENS))
        table.add_row(name, f"{short:,}", f"{long - short:,}")
    return table


@torch.no_grad()
def cache_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the cache of one sequence of that many tokens, counted on a real one."""
    cache = cache_of(model(torch.zeros(1, tokens, dtype=torch.long, device=model.device), use_cache=True))
    held = []
    for layer in cache.layers:
        states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
        held += [layer.keys, layer.values, *states]
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
