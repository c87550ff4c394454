# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where the time of a conversion goes, at the size of a real teacher: seconds by stage.

    python -m tests.benchmarks.conversion_stages [--shape 135m]

By default on 65,536 tokens with 1,200 steps a layer, 150 joint ones and layers chosen by `kl`. Weights and tokens are
random, which changes no time; quality is measured by `quality`.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig, SelectionConfig
from hf_tc.conversion.choose_layers import choose_layers
from hf_tc.conversion.run import convert
from hf_tc.conversion.task import ConversionTask

from .bench import Results, clock, parser_of
from .shapes import SHAPES, built, peak_gb, teacher


def main() -> None:
    options = parse()
    settings = ConversionConfig(
        options.tokens,
        options.length,
        selection=SelectionConfig(options.share, options.policy),
        alignment=AlignmentConfig(options.alignment_steps),
        joint=JointConfig(options.joint_steps),
    )
    dtype = getattr(torch, options.dtype)
    model = built(teacher(options.shape, options.length), options.device, dtype)
    generator = torch.Generator().manual_seed(options.seed)
    blocks = torch.randint(
        model.config.vocab_size, (options.tokens // options.length, options.length), generator=generator
    )
    results = Results(options.out, ["stage", "seconds"], benchmark="conversion_stages", shape=options.shape)
    results.heading(f"{results.content['machine']}, {options.shape} in {options.dtype}, {options.tokens:,} tokens")
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(model, blocks, settings, Path(folder), share_weights=True)
        start = clock()
        peak = peak_gb(lambda: convert(task, choose_layers(task)))
        for stage, seconds in task.clock.seconds.items():
            results.add(stage=stage, seconds=seconds)
        results.add(stage="all", seconds=clock() - start, peak_gb=peak)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="conversion_stages.json")
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--policy", default="kl")
    parser.add_argument("--alignment-steps", type=int, default=1200)
    parser.add_argument("--joint-steps", type=int, default=150)
    return parser.parse_args()


if __name__ == "__main__":
    main()
