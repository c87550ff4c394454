# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The time of a conversion grows with its work; speeds are measured."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted import SIZES
from transformers import AutoConfig

from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig
from hf_tc.layer_selection.policies import SELECTION_TOKENS
from hf_tc.planning.plan import plan_conversion
from hf_tc.planning.time import Speed, measure_speed

SPEED = Speed(float32=1e9, teacher=2e9, rule=1e-5, attention=1e-6)


def seconds(
    steps: int = 10, tokens: int = 32_768, length: int = 1024, joint: int = 0, speed: Speed = SPEED, **options: Any
) -> dict[str, float]:
    settings = ConversionConfig(tokens, length, alignment=AlignmentConfig(steps=steps), joint=JointConfig(joint))
    config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8})
    return plan_conversion(config, settings=settings, **{"retained_layers": [0, 4], **options}).seconds(speed)


def test_time_grows_with_what_there_is_to_do() -> None:
    base = seconds()
    assert all(value > 0 for value in base.values())
    assert seconds(steps=20)["alignment"] == pytest.approx(2 * base["alignment"])
    assert seconds(steps=20)["closed_form"] == base["closed_form"]
    assert seconds(retained_layers=[])["closed_form"] == pytest.approx(base["closed_form"] * 8 / 6)
    assert seconds(0, tokens=65_536)["teacher"] == pytest.approx(2 * seconds(0)["teacher"])


def test_a_step_takes_whole_blocks() -> None:
    batch = AlignmentConfig.batch_tokens
    assert seconds(length=batch // 2)["alignment"] == seconds(length=batch)["alignment"]
    assert seconds(length=4 * batch)["alignment"] == pytest.approx(4 * seconds(length=batch)["alignment"])
    assert seconds(joint=1, length=16_384)["joint"] == pytest.approx(2 * seconds(joint=1, length=8192)["joint"])


def test_the_teachers_attention_is_part_of_what_runs_it() -> None:
    slower = replace(SPEED, attention=SPEED.attention + 1.0)
    options: dict[str, Any] = {"steps": 0, "joint": 1, "retained_layers": 0.25}
    base, slow = (seconds(speed=speed, **options) for speed in (SPEED, slower))
    more = {name: slow[name] - base[name] for name in base}
    layers, converted, joint_tokens = 8, 6, 8192
    assert more["teacher"] == pytest.approx(32_768 * layers)
    assert more["perplexity"] == pytest.approx(2048 * (layers + 3 * (layers - converted)))  # on held-out text
    assert more["selection"] == pytest.approx(layers * SELECTION_TOKENS * layers)
    assert more["joint"] == pytest.approx(joint_tokens * (layers + 3.5 * (layers - converted)))
    assert more["closed_form"] == more["alignment"] == 0


def test_speed_is_measured_on_the_device() -> None:
    plan = plan_conversion(AutoConfig.for_model("llama", **SIZES))
    ticks = itertools.count()  # a clock that is read twice a run, and once before each kind of work
    options: dict[str, Any] = {"tokens": 64, "clock": lambda: next(ticks)}
    speed = measure_speed(plan.widths, torch.bfloat16, torch.device("cpu"), 32, **options)
    attention = plan.widths.kv_heads / 64
    expected = Speed(2 * 64 * SIZES["hidden_size"] ** 2, teacher=speed.float32, rule=1 / 64, attention=attention)
    assert speed == expected
    longer = measure_speed(plan.widths, torch.bfloat16, torch.device("cpu"), 256, **options)
    assert longer == replace(expected, attention=4 * attention)  # measured on 64 tokens of each block of 256
