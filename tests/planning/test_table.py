# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A plan as a table, and its units."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_sizes import SIZES
from transformers import AutoConfig

from hf_tc.config import ConversionConfig, JointConfig
from hf_tc.planning.plan import plan_conversion
from hf_tc.planning.table import plan_table, size


def test_the_table_says_it_all(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mistral", **{**SIZES, "sliding_window": 64, "num_hidden_layers": 8})
    config.save_pretrained(tmp_path)
    plan = plan_conversion(tmp_path, layer_policy="greedy")
    console = Console(width=120, record=True)
    console.print(plan_table(plan, torch.device("cpu")))
    shown = console.export_text()
    assert f"{plan.teacher_parameters:,} -> {plan.student_parameters:,}" in shown
    for part in (
        "window not preserved",
        "2 of 8 keep attention: chosen by greedy",
        "35 forward passes",
        "host memory",
        " on cpu",
    ):
        assert part in shown


@pytest.mark.parametrize(("joint_steps", "length", "has_less"), [(0, 1024, True), (5, 1024, True), (5, 16_384, False)])
def test_a_machine_without_a_gpu_says_what_a_gpu_must_have(joint_steps: int, length: int, has_less: bool) -> None:
    """One figure is enough where the peak is a single block in joint alignment, which nothing makes smaller."""
    config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8, "max_position_embeddings": length})
    settings = ConversionConfig(65_536, length, joint=JointConfig(joint_steps))
    plan = plan_conversion(config, layer_policy="uniform", settings=settings)
    console = Console(width=160, record=True)
    console.print(plan_table(plan, torch.device("cpu")))
    (row,) = [line for line in console.export_text().splitlines() if "peak memory on a GPU" in line]
    whole, least = plan.memory(10**18).device, plan.memory(0).device
    assert plan.memory(whole).device == whole
    assert plan.memory(least).device == least
    assert (least < whole) == has_less
    assert f"about {size(whole)}" in row
    assert (f"{size(least)} at least" in row) == has_less


def test_units() -> None:
    assert [size(count) for count in (999, 1000, 2_500_000, 3 * 10**13)] == ["999 B", "1.00 kB", "2.50 MB", "30.00 TB"]
