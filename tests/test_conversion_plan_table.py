# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A plan as a table, and its units."""

from pathlib import Path

import torch
from rich.console import Console
from tiny_sizes import SIZES
from transformers import AutoConfig

from hf_tc.conversion_plan import plan_conversion
from hf_tc.conversion_plan_table import duration, plan_table, size


def test_the_table_says_it_all(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mistral", **{**SIZES, "sliding_window": 64, "num_hidden_layers": 8})
    config.save_pretrained(tmp_path)
    plan = plan_conversion(tmp_path, layer_policy="greedy")
    console = Console(width=120, record=True)
    console.print(plan_table(plan, torch.device("cpu")))
    shown = console.export_text()
    assert f"{plan.teacher_parameters:,} -> {plan.student_parameters:,}" in shown
    for words in ("window not carried", "2 of 8 keep attention: chosen by greedy", "35 forward passes", "host memory"):
        assert words in shown


def test_units() -> None:
    assert [size(count) for count in (999, 1000, 2_500_000, 3 * 10**13)] == ["999 B", "1.00 kB", "2.50 MB", "30.00 TB"]
    assert [duration(seconds) for seconds in (0.2, 60, 600, 7200)] == ["1 s", "60 s", "10 min", "2.0 h"]
