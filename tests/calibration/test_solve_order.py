# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 1 as a whole: solving reads, applying writes, and the closed form beats copied weights."""

import copy
from dataclasses import replace

import pytest
import torch
from planted import (
    captured_layer,
    fresh_mixer,
    output_of,
    planted_mixer,
    random_blocks,
    relative,
    tiny_teacher,
    with_context,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_tc.alignment.layerwise import held_out_error
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.calibration.attention_statistics import attention_statistics
from hf_tc.calibration.output_gate import SIZE_AT_WORKING_POINT
from hf_tc.calibration.solve_order import COMPONENTS, apply, layer_statistics, solve
from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.modeling.plain_recurrence_inputs import heads
from hf_tc.modeling.teacher_attention import find_attention

# All kinds of queries and projections.
FAMILIES = {
    "llama": {"attention_bias": True},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {},
    "olmo2": {},
    "cohere": {"use_qk_norm": True},
    "persimmon": {"num_key_value_heads": 4},
    "hunyuan_v1_dense": {},
    "gpt_neox": {"num_key_value_heads": 4},
    "phi": {"qk_layernorm": True},
}


@pytest.fixture(scope="module")
def trained_teacher() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher_path(), dtype=torch.float32).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_solve_leaves_the_mixer_untouched_and_its_solution_fits(family: str) -> None:
    teacher = tiny_teacher(family, **FAMILIES[family])
    mixer = fresh_mixer(teacher, 1)
    blocks = random_blocks(20, 64)
    captured, held_out = captured_layer(teacher, blocks[:16], 1), captured_layer(teacher, blocks[16:], 1)
    before = copy.deepcopy(mixer.state_dict())
    inputs = {name: value.clone() for name, value in vars(captured).items() if isinstance(value, torch.Tensor)}
    initialization = solve(mixer, captured, scaling=find_attention(teacher.base_model.layers[1])[1].scaling)
    assert mixer.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert all(torch.equal(getattr(captured, name), value) for name, value in inputs.items())
    assert not any(value.requires_grad for value in initialization.weights.values())
    copied = held_out_error(mixer, held_out)
    apply(mixer, initialization.weights)
    assert held_out_error(mixer, held_out) < min(0.9, copied)
    x = captured.attn_input
    torch.testing.assert_close(mixer.beta(x).mean((0, 1)), initialization.beta, rtol=1e-4, atol=0)
    half_life = -0.6931472 / mixer.log_decay(x).mean((0, 1))
    torch.testing.assert_close(half_life, initialization.half_life, rtol=1e-4, atol=0)


@pytest.mark.parametrize("output_norm", [False, True])
def test_closed_form_beats_copied_weights_on_a_trained_teacher(
    trained_teacher: PreTrainedModel, output_norm: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path())
    blocks = token_blocks(read_documents(sample_text_path("calibration")), tokenizer, 256, 4096)
    captured, held_out = (captured_layer(trained_teacher, part, 1, 16) for part in (blocks[:-4], blocks[-4:]))
    mixer = fresh_mixer(trained_teacher, 1, output_norm=output_norm)
    copied = held_out_error(mixer, held_out)
    initialization = solve(mixer, captured, scaling=find_attention(trained_teacher.base_model.layers[1])[1].scaling)
    apply(mixer, initialization.weights)
    closed_form = held_out_error(mixer, held_out)
    assert closed_form < 0.6
    assert closed_form < 0.6 * copied
    # Every quantity of the closed form has a part in it: taking any of them back costs.
    weights = dict(mixer.named_parameters())
    fresh = dict(fresh_mixer(trained_teacher, 1, output_norm=output_norm).named_parameters())
    for names in (
        ["A_log", "dt_bias"],
        ["a_proj.weight"],
        ["b_proj.weight"],
        ["b_proj.bias"],
        ["q_proj.weight"],
        ["g_proj.weight", "g_proj.bias"],
    ):
        kept = {name: weights[name].clone() for name in names}
        apply(mixer, {name: fresh[name] for name in names})
        assert held_out_error(mixer, held_out) > closed_form, names
        apply(mixer, kept)
    assert held_out_error(mixer, held_out) == pytest.approx(closed_form, rel=1e-5)


def test_pieces_left_out_are_neutral() -> None:
    """No piece: the paper's half-life, beta 0.5, and one scale per head on the teacher's projections."""
    teacher = tiny_teacher("qwen2")
    mixer, captured = fresh_mixer(teacher), captured_layer(teacher, random_blocks(16, 64))
    x, scaling = captured.attn_input, find_attention(teacher.base_model.layers[0])[1].scaling
    bare = solve(mixer, captured, scaling=scaling, components=())
    assert not {"q_proj.weight", "q_proj.bias", "k_proj.weight"} & bare.weights.keys()
    torch.testing.assert_close(bare.half_life, bare.statistics.mean_attention_distance.float())
    torch.testing.assert_close(bare.beta, torch.full((4,), 0.5))
    apply(mixer, bare.weights)
    gate_scale = torch.nn.functional.silu(mixer.g_proj(x))
    assert torch.equal(gate_scale, gate_scale[:1, :1].expand_as(gate_scale))
    values = mixer.v_proj.weight / fresh_mixer(teacher).v_proj.weight
    output = mixer.o_proj.weight / fresh_mixer(teacher).o_proj.weight
    for ratio, dim in ((values.unflatten(0, (2, -1)), (1, 2)), (output.unflatten(1, (4, -1)), (0, 2))):
        spread = ratio.amax(dim, keepdim=True) - ratio.amin(dim, keepdim=True)
        assert bool((spread < 1e-3 * ratio.abs().amax(dim, keepdim=True)).all())


@pytest.mark.parametrize("piece", COMPONENTS)
def test_every_piece_changes_its_weights_and_fits_better_alone(piece: str) -> None:
    teacher = tiny_teacher("qwen3")
    mixer, captured = fresh_mixer(teacher, first_token_value=True), captured_layer(teacher, random_blocks(16, 64))
    scaling = find_attention(teacher.base_model.layers[0])[1].scaling
    errors = []
    for components in ((), (piece,)):
        trial = copy.deepcopy(mixer)
        apply(trial, solve(mixer, captured, scaling=scaling, components=components).weights)
        errors.append(held_out_error(trial, captured))
    assert errors[1] < errors[0]


def test_unknown_pieces_are_refused() -> None:
    teacher = tiny_teacher()
    with pytest.raises(ValueError, match=r"\['no_such'\].*half_life, write_gate"):
        solve(fresh_mixer(teacher), captured_layer(teacher, random_blocks(2, 20)), scaling=1.0, components=("no_such",))


def test_gate_is_the_same_for_all_channels_of_a_head_and_near_its_working_point() -> None:
    teacher = tiny_teacher()
    mixer, captured = fresh_mixer(teacher), captured_layer(teacher, random_blocks(16, 64))
    apply(mixer, solve(mixer, captured, scaling=mixer.head_dim**-0.5).weights)
    gate = torch.nn.functional.silu(mixer.g_proj(captured.attn_input)).unflatten(-1, (mixer.num_heads, -1))
    assert torch.equal(gate, gate[..., :1].expand_as(gate))
    assert 0.2 * SIZE_AT_WORKING_POINT < gate.mean() < 2 * SIZE_AT_WORKING_POINT


@pytest.mark.parametrize(("family", "layer", "window"), [("mistral", 0, 5), ("qwen3", 1, None), ("gpt_neox", 0, None)])
def test_statistics_are_those_of_the_teachers_own_attention_map(family: str, layer: int, window: int | None) -> None:
    teacher = tiny_teacher(
        family, sliding_window=window, num_key_value_heads=4, attn_implementation="eager", use_sliding_window=False
    )
    blocks = random_blocks(3, 30)
    with torch.no_grad():
        attention_map = teacher(blocks, output_attentions=True).attentions[layer].double()  # [B, H, T, T]
    gap = (torch.arange(30)[:, None] - torch.arange(30)).clamp_min(0)
    scaling = find_attention(teacher.base_model.layers[layer])[1].scaling
    captured = captured_layer(teacher, blocks, layer)
    statistics = layer_statistics(fresh_mixer(teacher, layer), captured, scaling, window)
    expected = (attention_map * gap).sum(-1).mean((0, 2))
    torch.testing.assert_close(statistics.mean_attention_distance, expected, rtol=1e-4, atol=1e-5)
    entropy = torch.special.entr(attention_map).sum(-1).mean((0, 2))
    torch.testing.assert_close(statistics.attention_entropy, entropy, rtol=1e-4, atol=1e-5)


def test_statistics_of_batches_are_those_of_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher()
    mixer, captured = fresh_mixer(teacher), captured_layer(teacher, random_blocks(5, 30))
    q, k, _ = heads(mixer, mixer.project(captured.attn_input), captured.position_embeddings)
    whole = attention_statistics(q=q, k=k, scaling=0.3)
    monkeypatch.setattr("hf_tc.calibration.recurrence_outputs.BATCH_TOKENS", 60)
    parts = layer_statistics(mixer, captured, 0.3, None)
    assert parts.queries == 150
    torch.testing.assert_close(parts.mean_attention_distance, whole.mean_attention_distance)


@pytest.mark.parametrize("family", ["llama", "qwen2", "olmo2"])
def test_heads_that_read_with_the_wrong_sign_are_turned(family: str) -> None:
    """Of a context that points away from what heads 1 and 2 read, as much is given as of one that does not."""
    mixer, captured = planted_mixer(family)
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0])
    output = output_of(mixer, captured)
    components, errors = [name for name in COMPONENTS if name != "output_projection"], []
    for signs in (torch.ones(4), sign):
        context = output * signs[:, None]
        planted = replace(with_context(captured, context), teacher_output=mixer.o_proj(context.flatten(2)))
        trial = copy.deepcopy(mixer)
        solved = solve(mixer, planted, scaling=mixer.head_dim**-0.5, components=components).weights
        apply(trial, solved)
        errors.append(held_out_error(trial, planted))
    assert errors[1] < 1.05 * errors[0] + 1e-3
    kept = (solved["q_proj.weight"] * mixer.q_proj.weight).unflatten(0, (4, -1)).sum((1, 2))
    assert torch.equal(kept.sign(), sign)


def test_apply_writes_in_the_mixers_dtype() -> None:
    mixer = fresh_mixer(tiny_teacher()).bfloat16()
    apply(mixer, {"dt_bias": torch.full((4,), 1.2345, dtype=torch.float64)})
    assert mixer.dt_bias.dtype == torch.bfloat16
    assert torch.equal(mixer.dt_bias, torch.full((4,), 1.2345).bfloat16())


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"dt_bias": torch.zeros(3)}, ValueError),
        ({"dt_bias": torch.zeros(4, 1)}, ValueError),
        ({"dt_bias": torch.tensor([0.0, 1.0, 2.0, float("nan")])}, ValueError),
        ({"dt_bias": torch.tensor([0.0, 1.0, 2.0, float("inf")])}, ValueError),
        ({"no_such_weight": torch.zeros(4)}, KeyError),
    ],
)
def test_apply_refuses_what_does_not_fit(weights: dict, error: type[Exception]) -> None:
    mixer = fresh_mixer(tiny_teacher())
    before = copy.deepcopy(mixer.state_dict())
    with pytest.raises(error, match=next(iter(weights))):
        apply(mixer, weights)
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())


def test_planted_memory_reads_out_after_apply() -> None:
    """Solved for on the outputs of a mixer with known half-lives, the student's output is that mixer's."""
    teacher = tiny_teacher()
    captured = captured_layer(teacher, random_blocks(16, 64))
    truth = fresh_mixer(teacher)
    apply(truth, solve(truth, captured, scaling=0.35).weights)
    with torch.no_grad():
        gated = truth.gated_output(truth.g_proj(captured.attn_input), output_of(truth, captured))
        captured.teacher_context, captured.teacher_output = gated, truth.o_proj(gated)
    mixer = fresh_mixer(teacher)
    apply(mixer, solve(mixer, captured, scaling=0.35).weights)
    assert held_out_error(mixer, captured) < 0.05
    assert relative(mixer.o_proj.weight, truth.o_proj.weight) < 2
