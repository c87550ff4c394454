# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 1 of layers as Qwen3.5 has them: no rotation, SiLU behind the convolution, no biases, an output norm."""

import copy

import pytest
import torch
from planted import captured_layer, fresh_mixer, random_blocks, tiny_teacher
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.alignment.layerwise import held_out_error, mix
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.calibration.solve_order import apply, solve
from hf_tc.config import MixerConfig
from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.teachers.new_student import build_student, mixer_of, teachers_mixer


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_form_of_qwen3_5_is_solved_too(family: str) -> None:
    """Without biases and norms of q and k, and through SiLU; statistics are the attention's all the same."""
    teacher = tiny_teacher(family)
    kinds, form = ["linear_attention"] * 4, MixerConfig("qwen3_5").fields(teacher.config)
    student = build_student(teacher, kinds[: teacher.config.num_hidden_layers], config_kwargs=form)
    mixer, attention = mixer_of(student, 1).requires_grad_(False), teachers_mixer(teacher, student, 1)
    blocks = random_blocks(20, 64)
    captured, held_out = captured_layer(teacher, blocks[:16], 1), captured_layer(teacher, blocks[16:], 1)
    before = copy.deepcopy(mixer.state_dict())
    solved = solve(mixer, captured, scaling=mixer.head_dim**-0.5, attention=attention)
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert not any(name.endswith(".bias") for name in solved.weights)
    of_default = solve(fresh_mixer(teacher, 1), captured, scaling=mixer.head_dim**-0.5, components=())
    torch.testing.assert_close(solved.statistics.attention_entropy, of_default.statistics.attention_entropy)
    copied = held_out_error(mixer, held_out)
    apply(mixer, solved.weights)
    assert held_out_error(mixer, held_out) < min(0.96, copied)


def test_the_form_of_qwen3_5_is_near_its_rotationless_twin_on_a_trained_teacher() -> None:
    """What rotation gives a layer is lost; convolution with SiLU and gates without biases cost little.

    All tokens count alike here, as they do in the solve.
    """
    trained_teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher_path(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path())
    blocks = token_blocks(read_documents(sample_text_path("calibration")), tokenizer, 256, 4096)
    captured, held_out = (captured_layer(trained_teacher, part, 1, 16) for part in (blocks[:-4], blocks[-4:]))
    attention, errors = fresh_mixer(trained_teacher, 1), []
    form = MixerConfig("qwen3_5").fields(trained_teacher.config)
    for fields in (form, {"recurrent_rope": False, "output_norm": True}):
        mixer = fresh_mixer(trained_teacher, 1, **fields)
        apply(mixer, solve(mixer, captured, scaling=mixer.head_dim**-0.5, attention=attention).weights)
        with torch.no_grad():
            errors.append((mix(mixer, held_out, slice(None)) - held_out.teacher_output).square().sum().item())
    assert errors[0] < 1.3 * errors[1]
