# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Peak memory and time of a conversion as a teacher gets deeper and its blocks longer, against the plan's.

    python -m tests.benchmarks.scaling [--device cuda --hidden 1024 --tokens 65536] [--plot model_cards/scaling.png]

Random Llama teachers: 12 to 48 layers at 512 tokens a block, one in twelve converted, and 512 to 8192 tokens a
block at a fixed number of tokens. Each point runs in a process of its own. Memory is the largest resident set minus
that before the teacher was made; on a GPU, what torch allocated at most. Time is the processor's on a CPU, which other
work on the machine does not lengthen much, and the clock's on a GPU. Prints a table and draws it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from hf_tc.config import AlignmentConfig, ConversionConfig
from hf_tc.conversion.run import convert
from hf_tc.conversion.task import ConversionTask
from hf_tc.layer_selection.uniform import uniform
from hf_tc.planning.plan import plan_conversion
from hf_tc.planning.time import order_of_time, passes, seconds_per_pass
from hf_tc.selection import LayerSelection

DEPTHS, LENGTHS = (12, 24, 48), (512, 1024, 2048, 4096, 8192)
SHORTEST, FEWEST, HEAD_DIM, VOCABULARY, STEPS = 512, 12, 32, 512, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)  # what a process of one point gets
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(measure_point(**options.point)))
        return
    fixed = {"device": options.device, "hidden": options.hidden, "tokens": options.tokens}
    depth = [point(layers=layers, length=SHORTEST, **fixed) for layers in DEPTHS]
    length = [depth[0], *(point(layers=FEWEST, length=tokens, **fixed) for tokens in LENGTHS[1:])]
    if options.plot is not None:
        draw(depth, length, options.plot)


def point(**sizes: Any) -> dict[str, Any]:
    """Measures in a new process; prints a row of the table."""
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--point", json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    row = {**sizes, **json.loads(done.stdout.splitlines()[-1])}
    if sizes["layers"] == FEWEST and sizes["length"] == SHORTEST:
        print(
            "| layers | tokens a block | peak, MB | weights in it, MB | plan, MB | seconds | plan |\n"
            "|---|---|---|---|---|---|---|"
        )
    megabytes = (row[name] / 1e6 for name in ("peak", "weights", "planned_peak"))
    cells = [f"{row['layers']}", f"{row['length']}", *(f"{value:.0f}" for value in megabytes)]
    print(f"| {' | '.join(cells)} | {row['seconds']:.0f} | {row['planned_time']} |", flush=True)
    return row


def measure_point(layers: int, length: int, device: str, hidden: int, tokens: int) -> dict[str, Any]:
    """Figures of one point of the plot."""
    config = AutoConfig.for_model(
        "llama", hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, head_dim=HEAD_DIM,
        num_attention_heads=hidden // HEAD_DIM, num_key_value_heads=max(1, hidden // HEAD_DIM // 2),
        vocab_size=VOCABULARY, max_position_embeddings=length,
    )  # fmt: skip
    settings = ConversionConfig(tokens, length, alignment=AlignmentConfig(steps=STEPS))
    return measure(config, uniform(11 / 12, layers), settings, torch.device(device))


def measure(
    config: PreTrainedConfig, retained: Sequence[int], settings: ConversionConfig, device: torch.device
) -> dict[str, Any]:
    """Converts a teacher with random weights, and plans it; figures in bytes and seconds."""
    plan = plan_conversion(config, retained_layers=list(retained), settings=settings)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    planned_seconds = passes(plan) * seconds_per_pass(plan.widths, settings.sequence_length, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_bytes(device)
    torch.manual_seed(0)
    with device:
        teacher = AutoModelForCausalLM.from_config(config, dtype=plan.dtype).eval()
    blocks = torch.randint(
        config.vocab_size, (settings.calibration_tokens // settings.sequence_length, settings.sequence_length)
    )
    start = clock()
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(teacher, blocks, settings, Path(folder), share_weights=True)
        student = convert(task, LayerSelection("list", list(plan.retained_layers)))
    memory = plan.memory(None if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory)
    return {
        "seconds": clock() - start,
        "peak": peak_bytes(device) - before,
        "weights": plan.teacher_bytes + sum(plan.mixer_parameters) * plan.dtype.itemsize,
        "planned_peak": memory.host if device.type == "cpu" else memory.device,
        "planned_time": order_of_time(planned_seconds),
        "fit_seconds": sum(layer.seconds for layer in student.conversion_report.layers),
    }


def peak_bytes(device: torch.device) -> int:
    """The most memory the process had so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw(depth: list[dict[str, Any]], length: list[dict[str, Any]], path: Path) -> None:
    """Memory above, beside the plan's, and time below; over depth on the left, over length on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    kinds = (("peak", 1e6, "peak memory, MB"), ("seconds", 1, "time, s"))
    for row, (measured, unit, label) in enumerate(kinds):
        for column, (points, name) in enumerate(((depth, "layers"), (length, "length"))):
            axis, x = axes[row, column], [p[name] for p in points]
            axis.plot(x, [p[measured] / unit for p in points], "o-", color="#0b6e99", label="measured")
            if measured == "peak":
                axis.plot(x, [p["planned_peak"] / unit for p in points], "s--", color="#c2571a", label="planned")
            axis.set_xscale("log", base=2)
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        axes[row, 0].set_ylabel(label)
    axes[0, 0].set_title(f"deeper teachers, {SHORTEST} tokens a block")
    axes[0, 1].set_title(f"longer blocks, {FEWEST} layers")
    axes[1, 0].set_xlabel("layers, one in twelve converted")
    axes[1, 1].set_xlabel("tokens a block, the same number of tokens in all")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
