"""Known errors of outputs that are wrong at a known place."""

import pytest
import torch

from hf_tc.alignment.relative_error import FIRST_TOKENS, relative_error

BOTH = 1 + FIRST_TOKENS


def test_0_for_the_teacher_and_1_for_silence() -> None:
    target = torch.randn(2, 3, 4)
    assert relative_error(target, target).item() == 0
    assert relative_error(torch.zeros_like(target), target).item() == pytest.approx(1)
    assert relative_error(3 * target, target).item() == pytest.approx(4)


def test_first_tokens_count_twice_and_others_by_their_number() -> None:
    target = torch.ones(2, 1024, 3)
    wrong_first, wrong_last = target.clone(), target.clone()
    wrong_first[:, 0] = wrong_last[:, -1] = 0
    assert relative_error(wrong_first, target).item() == pytest.approx((1 / 1024 + FIRST_TOKENS) / BOTH)
    assert relative_error(wrong_last, target).item() == pytest.approx(1 / 1024 / BOTH)


def test_first_tokens_count_by_their_own_size() -> None:
    target = torch.ones(2, 64, 3)
    target[:, 0] = 100
    wrong = target.clone()
    wrong[:, 0] = 50
    of_all = 2500 / (10_000 + 63)
    assert relative_error(wrong, target).item() == pytest.approx((of_all + FIRST_TOKENS / 4) / BOTH)


def test_one_token() -> None:
    assert relative_error(torch.full((1, 1, 2), 2.0), torch.ones(1, 1, 2)).item() == pytest.approx(1)


def test_a_first_token_to_which_the_teacher_adds_nothing() -> None:
    target = torch.ones(2, 64, 3)
    target[:, 0] = 0
    for output in (target.clone(), torch.full_like(target, 0.5)):
        output.requires_grad_()
        error = relative_error(output, target)
        error.backward()
        assert error.isfinite()
        assert output.grad.isfinite().all()
    assert relative_error(target, target) == 0


def test_a_teacher_that_adds_nothing() -> None:
    target, output = torch.zeros(2, 5, 3), torch.ones(2, 5, 3, requires_grad=True)
    error = relative_error(output, target)
    assert error == 1
    error.backward()
    assert not output.grad.any()
