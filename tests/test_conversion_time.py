# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The time of a conversion grows with its work; speeds are measured."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted import SIZES
from transformers import AutoConfig

from hf_tc.alignment import AlignmentSettings
from hf_tc.conversion_plan import plan_conversion
from hf_tc.conversion_settings import ConversionSettings
from hf_tc.conversion_time import Speed, measure_speed


def test_time_grows_with_what_there_is_to_do() -> None:
    speed = Speed(float32=1e9, teacher=2e9, rule=1e-5, attention=1e-6)

    def seconds(steps: int = 10, tokens: int = 32_768, **options: Any) -> dict[str, float]:
        settings = ConversionSettings(calibration_tokens=tokens, alignment=AlignmentSettings(steps=steps))
        config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8})
        return plan_conversion(config, settings=settings, **{"retained_layers": [0, 4], **options}).seconds(speed)

    base = seconds()
    assert all(value > 0 for value in base.values())
    assert seconds(steps=20)["alignment"] == pytest.approx(2 * base["alignment"])
    assert seconds(steps=20)["closed_form"] == base["closed_form"]
    batch, blocks = AlignmentSettings.batch_tokens, {"sequence_length": 4 * AlignmentSettings.batch_tokens}
    assert ConversionSettings(2**16, **blocks).alignment_batch_tokens == 4 * batch  # whole blocks
    assert ConversionSettings(2**16, batch // 2).alignment_batch_tokens == batch
    assert seconds(retained_layers=[])["closed_form"] == pytest.approx(base["closed_form"] * 8 / 6)
    assert seconds(0, tokens=65_536)["teacher"] == pytest.approx(2 * seconds(0)["teacher"])


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
