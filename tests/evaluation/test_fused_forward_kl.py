"""The kernels of the forward KL against the plain form, on a GPU and in Triton's interpreter."""

import pytest
import torch
from torch import Tensor
from triton_interpreter import needs_triton, run_interpreted, stand_in_for_a_gpu

from hf_tc.evaluation import kd_loss
from hf_tc.evaluation.fused_forward_kl import BLOCK, can_be_fused, fused_forward_kl

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
VOCABULARIES = [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 5]
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
MASKS = [-float("inf"), torch.finfo(torch.float32).min]


def draw(rows: int, vocabulary: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Logits of a student that is near its teacher, and of that teacher."""
    generator = torch.Generator().manual_seed(vocabulary)
    teacher = 4 * torch.randn(rows, vocabulary, generator=generator)
    student = teacher + 0.3 * torch.randn(rows, vocabulary, generator=generator)
    return student.to(device, dtype), teacher.to(device, dtype)


def compare(vocabulary: int, dtype: torch.dtype, temperature: float, device: str, rows: int = 3) -> None:
    """Divergences, and gradients by rows that count differently, with the plain form's in float32."""
    student, teacher = draw(rows, vocabulary, dtype, device)
    counts = torch.arange(1.0, rows + 1, device=device)
    ours, plain = student.clone().requires_grad_(), student.float().requires_grad_()
    divergence = fused_forward_kl(ours, teacher, temperature)
    expected = kd_loss.plain_forward_kl(plain, teacher, temperature)
    torch.testing.assert_close(divergence, expected, rtol=1e-5, atol=1e-5)
    (divergence @ counts).backward()
    (expected @ counts).backward()
    assert (ours.grad.float() - plain.grad).norm() <= ROUNDING[dtype] * plain.grad.norm()
    assert fused_forward_kl(teacher, teacher, temperature).tolist() == [0.0] * rows


def compare_shifted(device: str) -> None:
    """Logits that are large, or far from the teacher's by the same number, lose no digits."""
    student, teacher = draw(4, 50_000, torch.float32, device)
    student = teacher + (student - teacher) / 30
    for shift, scale in ((200.0, 1.0), (0.0, 10.0)):
        ours, theirs = student * scale + shift, teacher * scale
        log_q, log_p = (x.double().log_softmax(-1) for x in (ours, theirs))
        exact = (log_p.exp() * (log_p - log_q)).sum(-1).cpu()
        divergence = fused_forward_kl(ours, theirs, 1.0).cpu()
        assert (divergence - exact).abs().max() < 2e-6
        assert divergence.min() > -1e-6


def compare_masked(device: str) -> None:
    """A whole first block that the teacher, or both, cannot say: no weight, and gradients that are numbers."""
    for mask in MASKS:
        student, teacher = draw(3, BLOCK + 9, torch.float32, device)
        teacher[:, :BLOCK] = mask
        for both in (False, True):
            ours = student.clone()
            if both:
                ours[:, :BLOCK] = mask
            ours.requires_grad_()
            divergence = fused_forward_kl(ours, teacher, 1.0)
            divergence.sum().backward()
            kept = slice(BLOCK, None) if both else slice(None)
            expected = kd_loss.plain_forward_kl(ours.detach()[:, kept], teacher[:, kept].clamp_min(MASKS[1]), 1.0)
            torch.testing.assert_close(divergence.detach(), expected, rtol=1e-5, atol=1e-5)
            assert ours.grad.isfinite().all()


@needs_gpu
def test_shifted_and_masked_logits_on_a_gpu() -> None:
    compare_shifted("cuda")
    compare_masked("cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [*VOCABULARIES, 151_936])
def test_on_a_gpu(vocabulary: int, temperature: float, dtype: torch.dtype) -> None:
    compare(vocabulary, dtype, temperature, "cuda")


@needs_gpu
def test_forward_kl_takes_the_kernels_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = draw(3, 1000, torch.float32, "cuda")
    assert kd_loss._kernels_are_right(student.device, student.dtype, teacher.dtype)
    monkeypatch.setattr(kd_loss, "plain_forward_kl", None)
    assert kd_loss.forward_kl(student, teacher).shape == (3,)


def test_what_kernels_do_not_take() -> None:
    student, teacher = draw(3, 7, torch.float32, "cpu")
    assert not can_be_fused(student, teacher)


@needs_gpu
def test_tensors_that_kernels_do_not_take() -> None:
    student, teacher = draw(4, 4, torch.float32, "cuda")
    assert not can_be_fused(student.T, teacher)
    assert not can_be_fused(student.double(), teacher.double())
    assert not can_be_fused(student[:2], teacher)
    assert not can_be_fused(student, teacher.clone().requires_grad_())


@needs_triton
def test_in_tritons_interpreter() -> None:
    run_interpreted(__file__)


def interpret() -> None:
    """What the subprocess of the test above does."""
    stand_in_for_a_gpu()
    for vocabulary in VOCABULARIES:
        compare(vocabulary, torch.float32, 2.0, "cpu")
    compare(BLOCK + 1, torch.bfloat16, 1.0, "cpu")
    compare(5, torch.float32, 1.0, "cpu", rows=0)
    compare_shifted("cpu")
    compare_masked("cpu")


if __name__ == "__main__":
    interpret()
