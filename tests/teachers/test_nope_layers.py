# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Layers without rotary positions are found by measuring, and the measured model stays as it was."""

import pytest
from planted import small_llama, tiny_teacher

from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.nope_layers import find_nope_layers

llama = pytest.fixture(small_llama)


def test_nope_layers_are_measured():
    teacher = tiny_teacher("smollm3", num_hidden_layers=4)
    assert find_nope_layers(teacher) == [3]
    student = build_student(teacher, ["linear_attention"] * 4)
    assert student.config.nope_layers == [3]
    assert [layer.self_attn.rotary is None for layer in student.model.layers] == [False, False, False, True]


def test_measuring_leaves_modes_and_hooks_as_they_were(llama):
    llama.train()
    llama.model.layers[0].eval()
    modes = [module.training for module in llama.modules()]
    assert find_nope_layers(llama) == []
    assert [module.training for module in llama.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())
