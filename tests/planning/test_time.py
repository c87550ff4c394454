# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Passes are counted from the settings; what one takes is measured; together they have the order of a conversion."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import SIZES, random_blocks, tiny_teacher
from transformers import AutoConfig

from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig
from hf_tc.conversion.run import convert
from hf_tc.conversion.task import ConversionTask
from hf_tc.layer_selection.policies import SELECTION_TOKENS
from hf_tc.planning.plan import plan_conversion
from hf_tc.planning.time import CLOSED_FORM_PASSES, JOINT_PASSES, order_of_time, passes, seconds_per_pass
from hf_tc.selection import LayerSelection


def passes_of(steps: int = 10, tokens: int = 32_768, length: int = 1024, joint: int = 0, **options: Any) -> int:
    settings = ConversionConfig(tokens, length, alignment=AlignmentConfig(steps=steps), joint=JointConfig(joint))
    config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8, "max_position_embeddings": length})
    return passes(plan_conversion(config, settings=settings, **{"retained_layers": [0, 4], **options}), joint)


def test_passes_are_those_of_the_work_there_is_to_do() -> None:
    tokens, closed_form = 32_768, CLOSED_FORM_PASSES * 32_768
    assert passes_of(steps=0) == 8 * tokens + 6 * closed_form
    assert passes_of(steps=20) - passes_of(steps=10) == 6 * 10 * AlignmentConfig.batch_tokens
    assert passes_of(steps=0, joint=3) - passes_of(steps=0) == 8 * JOINT_PASSES * 3 * 8192
    measured = passes_of(steps=0, retained_layers=0.25, layer_policy="kl")  # all 8 are solved, and none again
    assert measured == 8 * (tokens + 8 * SELECTION_TOKENS + closed_form)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_step_takes_whole_blocks(batch: int) -> None:
    length = batch * AlignmentConfig.batch_tokens
    assert passes_of(steps=3, length=length) - passes_of(steps=2, length=length) == 6 * length


def test_a_conversion_takes_about_the_time_expected(tmp_path: Path) -> None:
    settings = ConversionConfig(4096, 256, alignment=AlignmentConfig(steps=2))
    teacher = tiny_teacher()
    plan = plan_conversion(teacher.config, retained_layers=[0], settings=settings)
    begun = time.perf_counter()
    convert(ConversionTask(teacher, random_blocks(16, 256), settings, tmp_path), LayerSelection("list", [0]))
    taken = time.perf_counter() - begun
    expected = passes(plan) * seconds_per_pass(plan.widths, 256, torch.device("cpu"))
    assert taken / 10 < expected < taken * 10


def test_orders_of_magnitude() -> None:
    words = [order_of_time(seconds) for seconds in (1, 60, 600, 3600, 36_000)]
    assert words == ["seconds", "about a minute", "about ten minutes", "about an hour", "many hours"]
