# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The distillation loss of one token, and what an evaluation reports, over token chunks of bounded memory.

With student logits z, teacher logits y, temperature T, next token w and cross-entropy weight a:

    objective = (1 - a) * T^2 * D(p, q) + a * -log softmax(z)_w,    p = softmax(y / T), q = softmax(z / T)

in nats. T^2 keeps the gradient's size independent of T (Hinton et al. 2015, section 2). D is one of

    forward_kl  KL(p || q): the student must cover whatever the teacher considers possible
    reverse_kl  KL(q || p): the student must not consider possible what the teacher does not
    jsd         b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q: between the two, and bounded (Agarwal et al.
                2024, "On-Policy Distillation of Language Models", eq. 1); forward KL times b as b goes to 0, reverse KL
                times 1 - b as it goes to 1

All softmaxes are fp32 whatever the logits' dtype. Where of a teacher no logits but its likeliest tokens are there,
p and q are over these and the sum of all others, see `top_k`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.evaluation.fused_forward_kl import can_be_fused, fused_forward_kl
from hf_tc.evaluation.linear_head import LinearHead
from hf_tc.evaluation.top_k import TopK
from hf_tc.modeling.kernel_checks import kernel_is_right

IGNORE_INDEX = -100
TOKEN_WEIGHTS = "token_weights"  # as a column of a batch [B, T]: what the prediction at each position counts
CPU_LOGITS = 2**20  # what stays in a CPU's caches from one operation to the next ...
CPU_TOKENS = 256  # ... unless the head's weights, read for so few tokens, would take longer than the arithmetic
# Each takes 28 to 32 bytes while a loss is computed, 48 with a jsd, 14 by `fused_forward_kl`: 2 to 6 GB. The fewer at
# once, the more often the gradient of a large head is added to: half as many take 14 % (V 49,152) to a third longer.
LOGITS_AT_ONCE = 2**27

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
Head = Callable[[Tensor], Tensor]  # hidden states [N, C] -> logits [N, V]


@dataclass(frozen=True)
class Objective:
    """The objective above: its temperature T, above 0, the weight a of cross-entropy, in [0, 1], D, and b of a jsd,
    between 0 and 1."""

    temperature: float = 1.0
    ce_weight: float = 0.0
    divergence: Divergence = "forward_kl"
    jsd_beta: float = 0.5

    def per_token(self, student_logits: Tensor, teacher: Tensor | TopK, targets: Tensor | None) -> Tensor:
        """[N] fp32 in nats, from logits [N, V] and next tokens [N], which a weight of 0 needs not. A term without
        weight is not computed."""
        if self.ce_weight == 0.0 or targets is None:
            return self.softened(student_logits, teacher)
        cross_entropy = F.cross_entropy(student_logits.float(), targets, reduction="none")
        if self.ce_weight == 1.0:
            return cross_entropy
        return (1.0 - self.ce_weight) * self.softened(student_logits, teacher) + self.ce_weight * cross_entropy

    def softened(self, student_logits: Tensor, teacher: Tensor | TopK) -> Tensor:
        """T^2 * D per token, [N] fp32 in nats, from the student's logits [N, V] and the teacher's."""
        if self.divergence == "forward_kl":
            return forward_kl(student_logits, teacher, self.temperature)
        log_p, log_q = _log_distributions(student_logits, teacher, self.temperature)
        if self.divergence == "reverse_kl":
            return _kl(log_q, log_p) * self.temperature**2
        b = self.jsd_beta
        log_m = torch.logaddexp(log_p + math.log(b), log_q + math.log1p(-b))
        return (b * _kl(log_p, log_m) + (1.0 - b) * _kl(log_q, log_m)) * self.temperature**2


class LazyLogits(NamedTuple):
    """Logits [B, T, V] that are not computed yet: the head, and the hidden states [B, T, C] to apply it to.

    Gradients of a loss reach the hidden states and those of `parameters` that are trained: name all that the head uses.
    `linear` is the head where that is all it is, see `linear_head`; without it, it is called.
    """

    head: Head
    hidden_states: Tensor
    parameters: tuple[Tensor, ...]
    linear: LinearHead | None = None

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """Of each position, as `at` takes them."""
        return (self.hidden_states.detach(),)

    def at(self, *rows: Tensor) -> Tensor:
        """Logits [N, V] of some positions, from their `rows`."""
        return self.head(*rows)


class TokenMetrics(NamedTuple):
    """Per labelled token, each [N] fp32: nats, and 1 or 0 for the agreement; all but `objective` at temperature 1."""

    objective: Tensor
    kl: Tensor
    student_nll: Tensor
    teacher_nll: Tensor
    top1_agreement: Tensor


def forward_kl(student_logits: Tensor, teacher: Tensor | TopK, temperature: float = 1.0) -> Tensor:
    """T^2 * KL(teacher || student) per token, [N] fp32 in nats, from logits [N, V]. Exactly 0 for equal logits."""
    if isinstance(teacher, TopK) or not can_be_fused(student_logits, teacher):
        return plain_forward_kl(student_logits, teacher, temperature)
    right = _kernels_are_right(student_logits.device, student_logits.dtype, teacher.dtype)
    return (fused_forward_kl if right else plain_forward_kl)(student_logits, teacher, temperature)


def plain_forward_kl(student_logits: Tensor, teacher: Tensor | TopK, temperature: float) -> Tensor:
    """As the equation reads: the slow twin of `fused_forward_kl`."""
    return _kl(*_log_distributions(student_logits, teacher, temperature)) * temperature**2


@functools.cache
def _kernels_are_right(device: torch.device, student_dtype: torch.dtype, teacher_dtype: torch.dtype) -> bool:
    """Whether `fused_forward_kl` gives the plain form's numbers here, see `kernel_checks`."""
    generator = torch.Generator(device).manual_seed(0)
    logits = 3 * torch.randn(2, 4, 5000, generator=generator, device=device)
    teacher_logits, problem = logits[0].to(teacher_dtype), {"student_logits": logits[1].to(student_dtype)}
    fused, plain = (
        lambda student_logits, form=form: (form(student_logits, teacher_logits, 2.0),)
        for form in (fused_forward_kl, plain_forward_kl)
    )
    return kernel_is_right("hf_tc's forward KL", fused, plain, problem, training=True)


def _log_distributions(student_logits: Tensor, teacher: Tensor | TopK, temperature: float) -> tuple[Tensor, Tensor]:
    """Log probabilities of teacher and student, fp32, of each token or, of a `TopK`, each outcome."""
    if isinstance(teacher, TopK):
        return teacher.outcomes(student_logits, temperature)
    return _log_softmax(teacher, temperature), _log_softmax(student_logits, temperature)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float()
    return F.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) per row."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def token_metrics(
    student_logits: Tensor, teacher: Tensor | TopK, targets: Tensor, objective: Objective
) -> TokenMetrics:
    """What an evaluation reports, per token, from logits [N, V] and next tokens [N]."""
    if isinstance(teacher, TopK):
        kl = forward_kl(student_logits, teacher)
        student_nll = F.cross_entropy(student_logits.float(), targets, reduction="none")
        teacher_nll, likeliest = -teacher.target_log_prob.float(), teacher.ids[:, 0]
    else:
        log_p, log_q = _log_distributions(student_logits, teacher, 1.0)
        kl = _kl(log_p, log_q)
        student_nll, teacher_nll = (F.nll_loss(log_prob, targets, reduction="none") for log_prob in (log_q, log_p))
        likeliest = teacher.argmax(-1)
    is_kl = objective.divergence == "forward_kl" and objective.temperature == 1.0
    softened = kl if is_kl else objective.softened(student_logits, teacher)
    return TokenMetrics(
        objective=(1.0 - objective.ce_weight) * softened + objective.ce_weight * student_nll,
        kl=kl,
        student_nll=student_nll,
        teacher_nll=teacher_nll,
        top1_agreement=(student_logits.argmax(-1) == likeliest).float(),
    )


def perplexity_from_nll(mean_nll: float) -> float:
    """exp of a mean negative log-likelihood in nats; infinity where a float cannot hold it."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf


def next_token_targets(labels: Tensor) -> Tensor:
    """Targets [B, T] of labels [B, T]: position t is to predict labels[t + 1]; the last position predicts nothing."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


@torch.no_grad()
def chunked_metrics(
    student: LazyLogits, teacher: LazyLogits | TopK, targets: Tensor, objective: Objective, *, chunk_tokens: int
) -> TokenMetrics:
    """`token_metrics` of the labelled positions, each [N] fp32 in row-major order; arguments as `chunked_objective`."""
    labelled = labelled_positions(targets, (student.hidden_states, targets, *teacher.rows))
    parts = [
        token_metrics(*on_one_device(student.head(ours), teacher.at(*theirs), wanted), objective)
        for ours, wanted, *theirs in zip(*(tensor.split(chunk_tokens) for tensor in labelled), strict=True)
    ]
    return TokenMetrics(*(torch.cat(values) for values in zip(*parts, strict=True)))


def tokens_at_once(vocabulary: int, *, on_cpu: bool) -> int:
    """How many tokens' logits may exist together: LOGITS_AT_ONCE numbers, whatever the vocabulary; fewer on a CPU."""
    tokens = max(1, LOGITS_AT_ONCE // vocabulary)
    return min(tokens, max(CPU_TOKENS, CPU_LOGITS // vocabulary)) if on_cpu else tokens


def labelled_positions(targets: Tensor | None, tensors: Iterable[Tensor | None]) -> list[Any]:
    """Of tensors [B, T, ...] the labelled positions [N, ...] in row-major order, each on its own device; without
    targets all positions. None stays None."""
    if targets is None:
        return [tensor if tensor is None else tensor.flatten(0, 1) for tensor in tensors]
    labelled = targets != IGNORE_INDEX
    return [tensor if tensor is None else tensor[labelled.to(tensor.device)] for tensor in tensors]


def on_one_device(first: Tensor, second: Any, third: Tensor | None) -> tuple[Tensor, Any, Any]:
    """All on the first one's device: parts of a dispatched model, and another model, compute elsewhere."""
    return first, second.to(first.device), third if third is None else third.to(first.device)
