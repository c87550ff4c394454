# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Converts a teacher of the size of a real one, with random weights, and holds its peak and time against the plan's.

    python -m tests.benchmarks.large_teacher --config DIR [--converted 2 --alignment-steps 1200 --joint-steps 0]

DIR holds a config.json, whose dtype counts. The last layers are converted, so that the text streams through all of
them. Memory is what torch allocated at most, weights included; on a CPU, which has no such figure, the resident set.
"""

import argparse

import torch
from transformers import AutoConfig

from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig

from .scaling import measure


def main() -> None:
    options = parse()
    config = AutoConfig.from_pretrained(options.config)
    settings = ConversionConfig(
        options.tokens,
        options.sequence_length,
        alignment=AlignmentConfig(steps=options.alignment_steps),
        joint=JointConfig(options.joint_steps),
    )
    retained = range(config.num_hidden_layers - options.converted)
    row = measure(config, list(retained), settings, torch.device(options.device))
    print("| | measured | planned |\n|---|---|---|")
    print(f"| peak, GB | {row['peak'] / 1e9:.2f} | {row['planned_peak'] / 1e9:.2f} |")
    print(f"| weights in it, GB | | {row['weights'] / 1e9:.2f} |")
    print(f"| seconds | {row['seconds']:.1f} | {row['planned_time']} |")
    if options.device != "cpu":  # layers report the clock's time, and there the rest is the processor's
        print(f"| of these fitting layers | {row['fit_seconds']:.1f} | |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--converted", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--alignment-steps", type=int, default=AlignmentConfig.steps)
    parser.add_argument("--joint-steps", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
