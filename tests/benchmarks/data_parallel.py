# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Distillation on several GPUs of a machine against one: tokens a second and losses, with equal batches.

    python -m tests.benchmarks.data_parallel [--processes 2] [--forms ddp fsdp2 zero3] [--shape 135m]

Student and teacher have random weights, the text is random. One process takes the rows of all of several in as many
pieces a step, so losses have to agree, and a GPU has as many at once in every row. ZeRO-3, which is DeepSpeed's, has no
autocast: on GPUs its student and its teacher are in bfloat16 altogether. Without GPUs it runs over gloo, which says
nothing about speed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hf_tc.distillation import DistillationConfig, DistillationTrainer

from ..testing.library_names import checkpointing_argument
from .bench import Results, clock, parser_of
from .shapes import SHAPES, built, student, teacher

COLUMNS = ["form", "processes", "tokens/s", "to one", "largest difference of losses", "peak GB a GPU"]
FORMS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}},
    "zero3": {
        "deepspeed": {
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": "auto"},
            "gradient_clipping": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "zero_allow_untested_optimizer": True,
        }
    },
}


def main() -> None:
    options = parse()
    if options.worker:
        return work(options)
    results = Results(options.out, COLUMNS, benchmark="data_parallel", shape=options.shape, rows=options.rows)
    results.heading(f"{results.content['machine']}, {options.shape}, {options.rows} x {options.length} tokens a step")
    with tempfile.TemporaryDirectory() as folder:
        alone = launched(1, "ddp", options, Path(folder) / "alone.json")
        results.add(form="one", processes=1, **{name: alone[name] for name in ("tokens/s", "peak GB a GPU")})
        for form in options.forms:
            found = launched(options.processes, form, options, Path(folder) / f"{form}.json")
            apart = max(abs(a - b) for a, b in zip(found.pop("losses"), alone["losses"], strict=True))
            share = {"to one": found["tokens/s"] / alone["tokens/s"], "largest difference of losses": apart}
            results.add(form=form, processes=options.processes, **found, **share)


def launched(processes: int, form: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """What the worker, in so many processes, found."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    given = {name: getattr(options, name) for name in ("shape", "processes", "rows", "length", "steps")}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    words += ["--checkpointing"] * options.checkpointing
    module = ["-m", "tests.benchmarks.data_parallel", "--worker", "--forms", form, "--out", str(out), *words]
    subprocess.run([*launch, *module], check=True, env={**os.environ, "OMP_NUM_THREADS": "4"})
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def work(options: argparse.Namespace) -> None:
    """One process of a run; the first one writes what was found."""
    processes, on_gpu, device = int(os.environ["WORLD_SIZE"]), torch.cuda.is_available(), "cpu"
    (form,) = options.forms
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = "cuda"
    torch.manual_seed(0)
    ours, theirs = (built(build(options.shape, options.length), device, torch.float32) for build in (student, teacher))
    if form == "zero3" and on_gpu:
        theirs.bfloat16()
    warm = max(2, options.steps // 3)
    ids = torch.randint(ours.config.vocab_size, (options.rows * (warm + options.steps), options.length)).tolist()
    arguments = DistillationConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.rows // options.processes,
        gradient_accumulation_steps=options.processes // processes,
        max_steps=warm + options.steps,
        learning_rate=1e-4,
        bf16=on_gpu,
        **checkpointing_argument(options.checkpointing),
        use_cpu=not on_gpu,
        ddp_backend="nccl" if on_gpu else "gloo",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(FORMS[form] if processes > 1 else {}),
    )
    rows = [{"input_ids": row} for row in ids]
    trainer = DistillationTrainer(ours, theirs, arguments, train_dataset=rows)
    batches_before, started, take = warm * arguments.gradient_accumulation_steps, 0.0, trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal batches_before, started
        if batches_before == 0:
            started = clock()
            if on_gpu:  # models that are whole before they are sharded do not count
                torch.cuda.reset_peak_memory_stats()
        batches_before -= 1
        return take(*args, **kwargs)

    trainer.training_step = timed
    trainer.train()
    seconds = (clock() - started) / options.steps
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    if trainer.is_world_process_zero():
        found = {"tokens/s": round(options.rows * options.length / seconds), "losses": losses, "peak GB a GPU": peak}
        Path(options.out).write_text(json.dumps(found))


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="data_parallel.json")
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--processes", type=int, default=2, help="to compare with one")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["ddp", "fsdp2"])
    parser.add_argument("--rows", type=int, default=32, help="of a step, over all processes; a multiple of --processes")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--checkpointing", action="store_true", help="activations are computed again in the backward")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "zero3" in options.forms and importlib.util.find_spec("deepspeed") is None:
        parser.error("zero3 is DeepSpeed's, which is not installed: pip install deepspeed")
    return options


if __name__ == "__main__":
    main()
