# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The delta rule against hand-computed answers, and the chunked forms against the token-by-token one."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from hf_tc.modeling.chunk_states import unit_lower_inverse
from hf_tc.modeling.gated_delta_rule import (
    CHUNK_SIZE,
    chunk_gated_delta_rule,
    gated_delta_rule,
    recurrent_gated_delta_rule,
)

LENGTHS = [1, 63, 64, 65, 500]


def long_chunks(**problem: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Chunks of CHUNK_SIZE for narrow heads too, as on a GPU."""
    with mock.patch("hf_tc.modeling.gated_delta_rule.SHORT_CHUNK", 0):
        return chunk_gated_delta_rule(**problem)


FORMS = [recurrent_gated_delta_rule, chunk_gated_delta_rule, long_chunks]


def draw(
    length: int,
    batch: int = 2,
    heads: int = 3,
    key_dim: int = 8,
    value_dim: int = 5,
    dtype: torch.dtype = torch.float64,
) -> dict[str, torch.Tensor]:
    """A random problem whose decays reach from almost none to almost all."""
    generator = torch.Generator().manual_seed(length)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return dict(
        q=F.normalize(normal(batch, length, heads, key_dim), dim=-1),
        k=F.normalize(normal(batch, length, heads, key_dim), dim=-1),
        v=normal(batch, length, heads, value_dim),
        log_decay=-F.softplus(3 * normal(batch, length, heads) - 3),
        beta=normal(batch, length, heads).sigmoid(),
        state=normal(batch, heads, key_dim, value_dim),
    )


def random_starts(length: int, batch: int = 2) -> torch.Tensor:
    """`[B, T]` starts of packed documents: about every tenth token, differently in each row."""
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(7)) < 0.1


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunked_forms_equal_the_recurrence(length: int, packed: bool, dtype: torch.dtype, tolerance: float) -> None:
    problem = draw(length, dtype=dtype)
    document_start = random_starts(length) if packed else None
    results = []
    for form in FORMS:
        leaves = {name: x.clone().requires_grad_() for name, x in problem.items()}
        recurrence_output, state = form(**leaves, document_start=document_start)
        assert recurrence_output.shape == (2, length, 3, 5)
        assert state.shape == (2, 3, 8, 5)
        loss = recurrence_output.square().sum() + (state * torch.arange(5)).sum()
        results.append([recurrence_output, state, *torch.autograd.grad(loss, list(leaves.values()))])
    for name, expected, *chunked in zip(["recurrence_output", "state", *problem], *results, strict=True):
        for actual in chunked:
            assert relative_error(actual, expected) < tolerance, name


@pytest.mark.parametrize("log_decay", [-0.01, -3.0, -8.0])
def test_decays_of_heads_that_forget_at_once_have_exact_gradients(log_decay: float) -> None:
    """There the gradient is a thousandth of what a token's own score, which does not decay, contributes to others'."""
    gradients = []
    for form, dtype in ((recurrent_gated_delta_rule, torch.float64), (long_chunks, torch.float32)):
        problem = {**draw(64, dtype=torch.float64), "state": None}
        problem["log_decay"] = torch.full_like(problem["log_decay"], log_decay)
        leaves = {name: x if x is None else x.to(dtype).requires_grad_() for name, x in problem.items()}
        loss = form(**leaves)[0].square().sum()
        gradients.append(torch.autograd.grad(loss, leaves["log_decay"])[0].double())
    assert relative_error(gradients[1], gradients[0]) < 1e-5


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
def test_values_wider_than_a_chunk(length: int, packed: bool) -> None:
    problem = {
        **draw(length, value_dim=2 * CHUNK_SIZE + 1),
        "document_start": random_starts(length) if packed else None,
    }
    expected = recurrent_gated_delta_rule(**problem)
    with mock.patch("hf_tc.modeling.gated_delta_rule.ChunkRule", None):  # which has a gradient to save for
        found = chunk_gated_delta_rule(**problem)
    assert all(relative_error(*pair) < 1e-12 for pair in zip(found, expected, strict=True))
    problem["q"].requires_grad_()
    assert relative_error(chunk_gated_delta_rule(**problem)[0], expected[0]) < 1e-12


@pytest.mark.parametrize("size", [1, 16, 25, 48, 64])
def test_inverse_of_a_unit_lower_triangle(size: int) -> None:
    below = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) / 4
    inverse = unit_lower_inverse(below)  # of which the diagonal and what is above it are not read
    product = (below.tril(-1) + torch.eye(size)) @ inverse
    torch.testing.assert_close(product, torch.eye(size, dtype=torch.float64).expand_as(product), rtol=0, atol=1e-12)


def test_equal_keys_without_decay_lose_no_digits() -> None:
    """The inverse has entries of 1 then, where powers of the triangle, which a series would add up, have 10^18."""
    problem = draw(CHUNK_SIZE, dtype=torch.float32)
    problem["k"] = problem["k"][:, :1].expand_as(problem["k"])
    problem["log_decay"], problem["beta"] = torch.zeros_like(problem["beta"]), torch.ones_like(problem["beta"])
    expected = recurrent_gated_delta_rule(**problem)
    assert all(relative_error(*pair) < 1e-5 for pair in zip(long_chunks(**problem), expected, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_no_state_means_an_empty_memory(form) -> None:
    problem = draw(70)
    empty = form(**{**problem, "state": None})
    zeros = form(**{**problem, "state": torch.zeros_like(problem["state"])})
    assert all(torch.equal(a, b) for a, b in zip(empty, zeros, strict=True))
    assert relative_error(empty[0], form(**problem)[0]) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_a_state_hands_the_sequence_over(form) -> None:
    problem = draw(130)
    whole, final = form(**problem)
    state, parts = problem.pop("state"), []
    for part in (slice(0, 50), slice(50, 51), slice(51, 130)):
        recurrence_output, state = form(**{name: x[:, part] for name, x in problem.items()}, state=state)
        parts.append(recurrence_output)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state, final)


def writes(values: torch.Tensor, key_of: list[int], **overrides) -> dict[str, torch.Tensor]:
    """One head that writes `values` `[T, V]` under unit keys, fully and without decay unless overridden."""
    length = len(key_of)
    keys = torch.eye(4, dtype=torch.float64)[key_of][None, :, None]
    problem = dict(
        q=keys, k=keys, v=values[None, :, None], log_decay=torch.zeros(1, length, 1), beta=torch.ones(1, length, 1)
    )
    return {**problem, **overrides}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_is_read_back(form) -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]], dtype=torch.float64)
    problem = writes(values, [0, 1, 2])
    problem["q"] = torch.eye(4, dtype=torch.float64)[[0, 0, 1]][None, :, None]
    recurrence_output, state = form(**problem)
    expected = values[[0, 0, 1]] / 2  # divided by sqrt(K), K = 4
    torch.testing.assert_close(recurrence_output[0, :, 0], expected)
    torch.testing.assert_close(state[0, 0, :3], values)
    assert not state[0, 0, 3].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_full_write_replaces_what_was_under_the_key(form) -> None:
    values = torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    assert form(**writes(values, [2, 2]))[1][0, 0, 2, 0].item() == 10.0


@pytest.mark.parametrize("form", FORMS)
def test_a_partial_write_moves_part_of_the_way(form) -> None:
    values = torch.tensor([[8.0], [4.0]], dtype=torch.float64)
    problem = writes(values, [2, 2], beta=torch.full((1, 2, 1), 0.25))
    assert form(**problem)[1][0, 0, 2, 0].item() == pytest.approx(2 + 0.25 * (4 - 2))


@pytest.mark.parametrize("form", FORMS)
def test_the_decay_shrinks_the_past_before_the_write_is_compared_with_it(form) -> None:
    values = torch.tensor([[8.0], [8.0]], dtype=torch.float64)
    half = torch.tensor([1.0, 0.5]).log()[None, :, None]
    problem = writes(values, [2, 2], log_decay=half, beta=torch.tensor([1.0, 0.5])[None, :, None])
    # 8 decays to 4, of which half the distance to 8 is made up: 6. Decay after the comparison would leave 4.
    assert form(**problem)[1][0, 0, 2, 0].item() == pytest.approx(6.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_decay_of_zero_forgets_everything_before(form) -> None:
    problem = draw(100)
    problem["log_decay"][:, 40] = float("-inf") if form is recurrent_gated_delta_rule else -1e4
    recurrence_output, state = form(**problem)
    tail = {name: x if name == "state" else x[:, 40:] for name, x in problem.items()}
    expected, expected_state = form(**{**tail, "state": None})
    torch.testing.assert_close(recurrence_output[:, 40:], expected)
    torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("form", FORMS)
def test_without_write_and_decay_the_state_stays(form) -> None:
    problem = draw(66)
    problem["log_decay"], problem["beta"] = (torch.zeros_like(problem["beta"]) for _ in range(2))
    recurrence_output, state = form(**problem)
    torch.testing.assert_close(state, problem["state"], rtol=0, atol=0)
    expected = torch.einsum("bhkv,bthk->bthv", problem["state"], problem["q"]) * 8**-0.5
    torch.testing.assert_close(recurrence_output, expected)


@pytest.mark.parametrize("form", FORMS)
def test_packed_documents_are_computed_apart(form) -> None:
    problem, lengths = draw(200, batch=1), [3, 61, 64, 1, 71]
    state = problem.pop("state")
    document_start = torch.zeros(1, 200, dtype=torch.bool)
    document_start[0, torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    packed, final = form(**problem, state=state, document_start=document_start)
    offset = 0
    for length in lengths:
        part = {name: x[:, offset : offset + length] for name, x in problem.items()}
        expected, expected_final = form(**part)
        torch.testing.assert_close(packed[:, offset : offset + length], expected)
        offset += length
    torch.testing.assert_close(final, expected_final)


@pytest.mark.parametrize("form", FORMS)
def test_a_first_document_may_continue_the_given_state(form) -> None:
    problem = draw(90, batch=1)
    document_start = torch.zeros(1, 90, dtype=torch.bool)
    document_start[0, 70] = True
    packed, _ = form(**problem, document_start=document_start)
    whole, _ = form(**problem)
    torch.testing.assert_close(packed[:, :70], whole[:, :70])
    assert relative_error(packed[:, 70:], whole[:, 70:]) > 1e-3


def test_strong_decay_over_a_chunk_neither_overflows_nor_stops_gradients() -> None:
    problem = draw(CHUNK_SIZE, dtype=torch.float32)
    problem["log_decay"] = torch.full_like(problem["log_decay"], -20.0).requires_grad_()  # e^(20 * 63) is infinite
    recurrence_output, state = chunk_gated_delta_rule(**problem)
    (gradient,) = torch.autograd.grad(recurrence_output.sum(), problem["log_decay"])
    assert all(x.isfinite().all() for x in (recurrence_output, state, gradient))


@pytest.mark.parametrize("length", [1, 5])
def test_the_output_keeps_the_dtype_and_the_state_is_float32(length: int) -> None:
    problem = {name: x.bfloat16() for name, x in draw(length, dtype=torch.float32).items()}
    recurrence_output, state = gated_delta_rule(**problem)
    assert recurrence_output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    exact, _ = recurrent_gated_delta_rule(**{name: x.float() for name, x in problem.items()})
    assert relative_error(recurrence_output.float(), exact) < 0.01


@pytest.mark.parametrize("length", [1, 100])
def test_gradients_against_finite_differences(length: int) -> None:
    problem = {name: x.requires_grad_() for name, x in draw(length, batch=1, heads=1, key_dim=3, value_dim=2).items()}
    names = list(problem)
    assert torch.autograd.gradcheck(
        lambda *values: gated_delta_rule(**dict(zip(names, values, strict=True))),
        tuple(problem.values()),
        fast_mode=True,
    )


@pytest.mark.parametrize("length", [1, 65])
def test_autocast_does_not_reach_into_the_rule(length: int) -> None:
    problem = draw(length, dtype=torch.float32)
    expected, state = gated_delta_rule(**problem)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recurrence_output, cast_state = gated_delta_rule(**problem)
    assert torch.equal(recurrence_output, expected)
    assert torch.equal(cast_state, state)
