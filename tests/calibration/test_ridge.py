# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Ridge regression towards a prior."""

import pytest
import torch
from torch import Tensor

from hf_tc.calibration.ridge import LeastSquares


def problem(rows: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Features [rows, 5] of different sizes, targets [rows, 3], and the weights [5, 3] between them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, 5, generator=generator) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    weights = torch.randn(5, 3, generator=generator)
    return features, features @ weights, weights.double()


def sums_of(*batches: tuple[Tensor, Tensor]) -> LeastSquares:
    sums = LeastSquares.empty(5, 3, torch.device("cpu"))
    for features, targets in batches:
        sums.add(features, targets)
    return sums


def test_planted_weights_are_found() -> None:
    features, targets, weights = problem()
    solution = sums_of((features, targets)).solve(prior=torch.zeros(5, 3), prior_tokens=1e-6)
    assert solution.dtype == torch.float64
    torch.testing.assert_close(solution, weights, rtol=1e-5, atol=1e-5)


def test_without_data_the_prior_is_the_answer() -> None:
    prior = torch.randn(5, 3)
    torch.testing.assert_close(sums_of().solve(prior=prior), prior.double())
    zeros = (torch.zeros(10, 5), torch.zeros(10, 3))
    torch.testing.assert_close(sums_of(zeros).solve(prior=prior), prior.double())


def test_batches_of_any_shape_add_up() -> None:
    features, targets, _ = problem()
    whole = sums_of((features, targets))
    parts = sums_of((features[:50], targets[:50]), (features[50:].view(3, 50, 5), targets[50:].view(3, 50, 3)))
    assert parts.rows == whole.rows == 200
    prior = torch.ones(5, 3)
    torch.testing.assert_close(parts.solve(prior=prior), whole.solve(prior=prior), rtol=1e-5, atol=1e-6)


def test_prior_is_worth_its_tokens() -> None:
    """One feature of size 1: n tokens that say 3 and p tokens that say 1 average to (3 n + p) / (n + p)."""
    sums = LeastSquares.empty(1, 1, torch.device("cpu"))
    sums.add(torch.ones(40, 1), torch.full((40, 1), 3.0))
    for tokens in (0.0, 10.0, 40.0, 4000.0):
        solution = sums.solve(prior=torch.ones(1, 1), prior_tokens=tokens).item()
        assert solution == pytest.approx((3 * 40 + tokens) / (40 + tokens))


def test_units_of_the_features_do_not_matter() -> None:
    features, targets, _ = problem()
    prior = torch.ones(5, 3)
    small = sums_of((1e-3 * features, targets)).solve(prior=1e3 * prior)
    torch.testing.assert_close(1e-3 * small, sums_of((features, targets)).solve(prior=prior), rtol=1e-4, atol=1e-5)


def test_minimises_error_plus_distance_to_the_prior() -> None:
    features, targets, weights = problem(30)
    targets = targets + torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))
    prior, tokens = weights + 0.3, 12.0
    strength = tokens / 30 * features.double().square().sum(0).mean()

    def cost(w: Tensor) -> Tensor:
        return (features.double() @ w - targets).square().sum() + strength * (w - prior).square().sum()

    solution = sums_of((features, targets)).solve(prior=prior, prior_tokens=tokens)
    point = solution.clone().requires_grad_(True)
    gradient = torch.autograd.grad(cost(point), point)[0]
    assert gradient.abs().max() < 1e-4 * cost(torch.zeros(5, 3).double())
    assert cost(solution) < min(cost(weights), cost(prior))


def test_problems_of_several_heads_are_solved_as_each_alone() -> None:
    features, targets, _ = problem(30)
    heads = [(features, targets), (2 * features, targets), (features[:, [1, 0, 2, 3, 4]], 3 * targets)]
    prior = torch.arange(45.0).view(3, 5, 3)
    sums = LeastSquares.empty(5, 3, torch.device("cpu"), heads=3)
    sums.add(*heads[0], 0)
    sums.add(*(torch.stack(part) for part in zip(*heads[1:], strict=True)), slice(1, 3))
    expected = [sums_of(head).solve(prior=prior[number]) for number, head in enumerate(heads)]
    torch.testing.assert_close(sums.solve(prior=prior), torch.stack(expected), rtol=1e-6, atol=1e-8)


def test_several_threads_solve_the_problems_of_several_heads() -> None:
    """Their systems are solved to the end whatever the number of threads, see `solve`."""
    threads, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    features, targets = (torch.randn(6, 400, width, generator=generator) for width in (161, 1))
    sums = LeastSquares.empty(161, 1, torch.device("cpu"), heads=6)
    sums.add(features, targets)
    try:
        torch.set_num_threads(2)
        solution = sums.solve(prior=torch.zeros(6, 161, 1), prior_tokens=40.0)
    finally:
        torch.set_num_threads(threads)
    strength = 40 / 400 * sums.gram.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    torch.testing.assert_close(sums.gram @ solution + strength * solution, sums.cross, rtol=1e-9, atol=1e-9)
