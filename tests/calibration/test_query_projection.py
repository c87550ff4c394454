# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Query projection: planted queries are found again; norms and rotation enter as the linear maps that they are."""

import copy

import pytest
import torch
from planted import (
    captured_layer,
    fresh_mixer,
    output_of,
    planted_mixer,
    random_blocks,
    relative,
    with_context,
)
from planted import tiny_teacher as teacher_of
from tiny_sizes import HEAD_DIM, HEADS
from torch import nn

from hf_tc.calibration import query_projection
from hf_tc.calibration.activation_range import solve_activation_range
from hf_tc.calibration.output_gate import WORKING_POINT, OutputGate
from hf_tc.calibration.query_projection import (
    can_turn,
    conjugate_gradient,
    linear_queries,
    solve_query_projection,
    turned_queries,
)
from hf_tc.calibration.recurrence_outputs import recurrence_inputs
from hf_tc.calibration.solve_order import apply
from hf_tc.modeling.gated_delta_rule import recurrent_gated_delta_rule
from hf_tc.modeling.plain_recurrence_inputs import heads
from hf_tc.modeling.recurrence_inputs import l2_normalise
from hf_tc.teachers.norm_direction import norm_direction

# Every way in which families treat a query between its projection and the memory.
QUERY_KINDS = {
    "llama": ("llama", {}),
    "bias": ("qwen2", {}),
    "RMSNorm per head": ("qwen3", {}),
    "RMSNorm with 1 + weight": ("gemma3_text", {}),
    "RMSNorm over all heads": ("olmo2", {}),
    "LayerNorm per head": ("cohere", {"use_qk_norm": True}),
    "LayerNorm with bias": ("persimmon", {"num_key_value_heads": 4}),
    "norm after rotation": ("hunyuan_v1_dense", {}),
    "partial rotation, fused": ("gpt_neox", {"num_key_value_heads": 4}),
    "partial rotation and LayerNorm": ("phi", {"qk_layernorm": True}),
    "no rotation": ("llama", {"recurrent_rope": False}),
    "norm in the projection": ("qwen3", {"recurrent_rope": False, "recurrent_qk_norm": False}),
}


@pytest.mark.parametrize("kind", QUERY_KINDS)
def test_turned_queries_negate_the_output_of_their_heads_alone(kind: str) -> None:
    family, changes = QUERY_KINDS[kind]
    mixer, captured = planted_mixer(family, **changes)
    before, sign = output_of(mixer, captured), torch.tensor([1.0, -1.0, -1.0, 1.0])
    apply(mixer, turned_queries(mixer, sign))
    turned = relative(output_of(mixer, captured), before * sign[:, None]) < 1e-5
    assert turned == can_turn(mixer) == (kind not in ("LayerNorm with bias", "partial rotation and LayerNorm"))


def constant_gate(gate_scale: float = 1.0) -> OutputGate:
    gate = OutputGate(torch.zeros(HEADS, 32), torch.full((HEADS,), WORKING_POINT), torch.ones(HEADS))
    return gate._replace(scale=gate_scale / gate.gate_scale(torch.zeros(1, 1, 32))[0, 0])


@pytest.mark.parametrize("kind", QUERY_KINDS)
def test_linear_queries_point_where_the_mixers_queries_do(kind: str) -> None:
    family, changes = QUERY_KINDS[kind]
    mixer, captured = planted_mixer(family, **changes)
    raw = mixer.q_proj(captured.attn_input).unflatten(-1, (HEADS, HEAD_DIM))
    positions = captured.position_embeddings if mixer.recurrent_rope else None
    norm = norm_direction(mixer.q_norm, HEADS, HEAD_DIM)
    queries = linear_queries(mixer, norm, raw, positions)
    norm_bias = getattr(mixer.q_norm, "bias", None)
    expected = recurrence_inputs(mixer, captured, slice(None)).q
    if norm_bias is None:
        torch.testing.assert_close(l2_normalise(queries), expected, rtol=1e-4, atol=1e-4)
    else:  # the bias of a norm is not linear in the query; the direction is near all the same
        assert (l2_normalise(queries) * expected).sum(-1).mean() > 0.5
    other = torch.randn(raw.shape, generator=torch.Generator().manual_seed(0))
    combined = linear_queries(mixer, norm, 2 * raw - 3 * other, positions)
    torch.testing.assert_close(
        combined, 2 * queries - 3 * linear_queries(mixer, norm, other, positions), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "norm", [None, nn.RMSNorm(HEAD_DIM), nn.RMSNorm(HEADS * HEAD_DIM), nn.LayerNorm(HEAD_DIM, bias=False)]
)
def test_norm_direction_is_the_norm_times_the_length_it_divides_by(norm: nn.Module | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q = 3 + torch.randn(2, 5, HEADS, HEAD_DIM, generator=generator)
    if norm is None:
        assert norm_direction(None, HEADS, HEAD_DIM)(q) is q
        return
    norm = copy.deepcopy(norm).requires_grad_(False)
    norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
    over_all = norm.weight.numel() > HEAD_DIM
    z = q.flatten(2) if over_all else q
    centred = z - z.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else z
    length = centred.square().mean(-1, keepdim=True).sqrt()
    direction = norm_direction(norm, HEADS, HEAD_DIM)(q)
    torch.testing.assert_close(direction, (norm(z) * length).view_as(q), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "RMSNorm per head", "RMSNorm with 1 + weight", "no rotation"])
def test_planted_queries_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every head's query turned, after its norm's weight, which leaves its length what it was."""
    monkeypatch.setattr(query_projection, "PRIOR_TOKENS", 1e-6)
    monkeypatch.setattr(query_projection, "ITERATIONS", 150)
    family, changes = QUERY_KINDS[kind]
    mixer, captured = planted_mixer(family, **changes)
    turn = torch.linalg.qr(torch.randn(HEADS, HEAD_DIM, HEAD_DIM, generator=torch.Generator().manual_seed(1)))[0]
    weight = norm_direction(mixer.q_norm, HEADS, HEAD_DIM)(torch.ones(1, 1, HEADS, HEAD_DIM))[0, 0]  # [H, K]
    truth = copy.deepcopy(mixer)
    w = mixer.q_proj.weight.unflatten(0, (HEADS, HEAD_DIM))
    truth.q_proj.weight.copy_((torch.einsum("hij,hj,hjc->hic", turn, weight, w) / weight[..., None]).flatten(0, 1))
    target = output_of(truth, captured)
    before = {name: value.clone() for name, value in mixer.state_dict().items()}
    solved = solve_query_projection(mixer, with_context(captured, 2 * target), constant_gate(2.0))
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    start = relative(output_of(mixer, captured), target)
    apply(mixer, solved)
    assert start > 0.5
    assert relative(output_of(mixer, captured), target) < 5e-3
    new, old = (x.unflatten(0, (HEADS, -1)).norm(dim=(1, 2)) for x in (mixer.q_proj.weight, before["q_proj.weight"]))
    torch.testing.assert_close(new, old)  # the length of the queries' weights is kept


@pytest.mark.parametrize(
    "kind", [kind for kind, (family, _) in QUERY_KINDS.items() if family not in ("llama", "persimmon")]
)
def test_few_iterations_come_much_closer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_projection, "PRIOR_TOKENS", 1e-6)
    family, changes = QUERY_KINDS[kind]
    mixer, captured = planted_mixer(family, **changes)
    truth = copy.deepcopy(mixer)
    noise = torch.randn(truth.q_proj.weight.shape, generator=torch.Generator().manual_seed(1))
    truth.q_proj.weight.add_(noise * 0.5 * truth.q_proj.weight.std())
    target = output_of(truth, captured)
    start = relative(output_of(mixer, captured), target)
    apply(mixer, solve_query_projection(mixer, with_context(captured, target), constant_gate()))
    assert relative(output_of(mixer, captured), target) < 0.5 * start


def test_planted_queries_are_found_beside_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias stays what it was; weight and bias are scaled alike, which changes no direction."""
    monkeypatch.setattr(query_projection, "PRIOR_TOKENS", 1e-6)
    monkeypatch.setattr(query_projection, "ITERATIONS", 150)
    mixer, captured = planted_mixer("qwen2")
    truth = copy.deepcopy(mixer)
    truth.q_proj.weight.copy_(torch.randn(truth.q_proj.weight.shape, generator=torch.Generator().manual_seed(1)))
    present, planted = (
        heads(part, part.project(captured.attn_input), captured.position_embeddings)[0] for part in (mixer, truth)
    )
    inputs = recurrence_inputs(mixer, captured, slice(None))
    inputs = inputs._replace(q=planted / present.norm(dim=-1, keepdim=True))  # lengths are held where they are
    context = recurrent_gated_delta_rule(**inputs._asdict())[0]
    solved = solve_query_projection(mixer, with_context(captured, context), constant_gate())
    weight, bias = (solved[f"q_proj.{name}"].unflatten(0, (HEADS, HEAD_DIM)) for name in ("weight", "bias"))
    length = (bias / mixer.q_proj.bias.unflatten(0, (HEADS, HEAD_DIM))).mean(1)
    assert relative(weight / length[:, None, None], truth.q_proj.weight.unflatten(0, (HEADS, HEAD_DIM))) < 1e-2


def test_strong_prior_keeps_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_projection, "PRIOR_TOKENS", 1e12)
    mixer, captured = planted_mixer("qwen2")
    solved = solve_query_projection(mixer, captured, constant_gate())
    torch.testing.assert_close(solved["q_proj.weight"], mixer.q_proj.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(solved["q_proj.bias"], mixer.q_proj.bias, rtol=1e-3, atol=1e-4)


def test_batches_of_blocks_make_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_of("qwen3")
    captured = captured_layer(teacher, random_blocks(5, 40))
    mixer = fresh_mixer(teacher)
    whole = solve_query_projection(mixer, captured, constant_gate())["q_proj.weight"]
    monkeypatch.setattr("hf_tc.calibration.recurrence_outputs.BATCH_TOKENS", 80)
    parts = solve_query_projection(mixer, captured, constant_gate())["q_proj.weight"]
    assert relative(whole, mixer.q_proj.weight) > 0.01
    assert relative(parts, whole) < 1e-3


def test_conjugate_gradient_solves_one_system_per_head() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 12, 12, generator=generator, dtype=torch.float64)
    matrices = root @ root.mT + torch.eye(12)
    right = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)

    def operator(x):
        return torch.einsum("hij,hj->hi", matrices, x.flatten(1)).view_as(x)

    for preconditioner in (torch.eye(4).double(), torch.diag(torch.tensor([1.0, 2.0, 0.5, 3.0])).double()):
        solution = conjugate_gradient(operator, right, preconditioner, 40)
        torch.testing.assert_close(operator(solution), right, rtol=1e-6, atol=1e-8)
    assert torch.equal(conjugate_gradient(operator, right, preconditioner, 0), torch.zeros_like(right))


def test_planted_queries_are_found_through_an_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is one of Gauss-Newton: repeated ones come to the planted queries."""
    monkeypatch.setattr(query_projection, "PRIOR_TOKENS", 1e-6)
    monkeypatch.setattr(query_projection, "ITERATIONS", 150)
    mixer, captured = planted_mixer("llama", recurrent_rope=False, conv_activation="silu")
    apply(mixer, solve_activation_range(mixer, captured, 0.5))
    truth = copy.deepcopy(mixer)
    noise = torch.randn(truth.q_proj.weight.shape, generator=torch.Generator().manual_seed(1))
    truth.q_proj.weight.add_(0.3 * truth.q_proj.weight.std() * noise)
    new, old = (x.unflatten(0, (HEADS, -1)).norm(dim=(1, 2)) for x in (truth.q_proj.weight, mixer.q_proj.weight))
    truth.q_proj.weight.mul_((old / new).repeat_interleave(HEAD_DIM)[:, None])
    target = output_of(truth, captured)
    errors = [relative(output_of(mixer, captured), target)]
    for _ in range(4):
        apply(mixer, solve_query_projection(mixer, with_context(captured, 2 * target), constant_gate(2.0)))
        errors.append(relative(output_of(mixer, captured), target))
    assert errors[1] < 0.4 * errors[0]
    assert (
        errors[-1] < 0.2 * errors[0]
    )  # as near as a step to the right direction and then back to the old length comes
