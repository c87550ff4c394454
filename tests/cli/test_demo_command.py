# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc demo`: every step is shown, and the cache it compares."""

from pathlib import Path

import pytest
import torch
from conversion_inputs import letter_teacher
from transformers import AutoModelForCausalLM

from hf_tc.cli import demo_report as demo
from hf_tc.cli.main import main
from hf_tc.report.records import ConversionReport


def test_demo_shows_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"calibration_tokens": 256, "sequence_length": 64, "alignment_steps": 1}
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, **quick})
    for module in ("hf_tc.convert", "hf_tc.conversion.run"):
        monkeypatch.setattr(f"{module}.EVAL_TOKENS", 512)
    monkeypatch.setattr(demo, "CACHE_TOKENS", 100)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    for stage in ("teacher", "copied", "closed form", "aligned", "Converted layers", "Cache of one sequence"):
        assert stage in shown
    assert shown.count(demo.PROMPT) == 2
    assert str(out) in shown.replace(" ", "")
    assert "hf-tc distill" in shown
    assert len(AutoModelForCausalLM.from_pretrained(out).config.linear_layers) == 6
    report = ConversionReport.load(out)
    joint = ["joint"] if torch.cuda.is_available() else []
    assert list(report.perplexity) == ["teacher", "copied", "closed_form", "aligned", *joint]


def test_cache_of_a_student_grows_with_its_retained_layers_alone(student: Path) -> None:
    teacher, model = letter_teacher(), AutoModelForCausalLM.from_pretrained(student)
    layers, kv_heads, head_dim, bytes_each = 3, 2, 8, 4
    per_token = 2 * kv_heads * head_dim * bytes_each  # keys and values of one attention layer
    assert demo.cache_bytes(teacher, 40) == 40 * per_token * layers
    retained = len(model.config.retained_layers)
    assert demo.cache_bytes(model, 40) - demo.cache_bytes(model, 30) == 10 * per_token * retained
    state = 4 * head_dim * head_dim * bytes_each  # four query heads
    conv_state = 3 * (4 + 2 * kv_heads) * head_dim * bytes_each  # kernel size 4: three tokens of q, k and v
    constant = demo.cache_bytes(model, 30) - 30 * per_token * retained
    assert constant == (layers - retained) * (state + conv_state)
