# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Evaluation against full logits, and its bounded memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_causal_lms import tiny_llama, tiny_qwen3
from tiny_sizes import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.evaluation import kd_loss
from hf_tc.evaluation.evaluate import evaluate
from hf_tc.evaluation.perplexity import evaluate_blocks, perplexity


def blocks(count: int = 5, length: int = 33) -> Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))


def log_probs(model: torch.nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return F.log_softmax(model.eval()(ids).logits[:, :-1].double(), -1).flatten(0, 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_equals_full_logits(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd_loss, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    student, teacher, ids = tiny_llama(), tiny_qwen3(), blocks()
    log_q, log_p, targets = log_probs(student, ids), log_probs(teacher, ids), ids[:, 1:].flatten()

    result = evaluate_blocks(student, ids, teacher, batch_size=batch_size)

    assert result.tokens == 5 * 32
    assert result.perplexity == pytest.approx(F.nll_loss(log_q, targets).exp().item(), rel=1e-5)
    assert result.teacher_perplexity == pytest.approx(F.nll_loss(log_p, targets).exp().item(), rel=1e-5)
    assert result.kl == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-5)
    assert result.top1_agreement == pytest.approx((log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item())
    alone = evaluate_blocks(student, ids, batch_size=batch_size)
    assert alone.to_dict() == {"perplexity": pytest.approx(result.perplexity), "tokens": 160}
    assert perplexity(student, ids, batch_size=batch_size) == pytest.approx(result.perplexity)


def test_a_model_against_itself() -> None:
    model = tiny_llama()
    result = evaluate_blocks(model, blocks(), model)
    assert (result.kl, result.top1_agreement) == (0.0, 1.0)
    assert result.perplexity == result.teacher_perplexity


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, blocks()) == pytest.approx(VOCABULARY, rel=1e-6)


def test_models_are_left_as_they_were() -> None:
    student, teacher = tiny_llama(attention_dropout=0.5).train(), tiny_qwen3().eval()
    expected = perplexity(tiny_llama(), blocks())
    assert evaluate_blocks(student, blocks(), teacher).perplexity == pytest.approx(expected)
    assert student.training
    assert not teacher.training


def test_logits_of_a_long_block_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd_loss, "LOGITS_AT_ONCE", 64 * VOCABULARY + 5)
    student, teacher = tiny_llama(), tiny_qwen3()
    rows: list[int] = []
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    evaluate_blocks(student, blocks(2, 300), teacher, batch_size=2)
    evaluate_blocks(student, blocks(2, 300), batch_size=2)
    assert max(rows) == 64


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<eos>" if index == 2 else f"w{index}": index for index in range(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_text_is_read_split_and_measured(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = torch.randint(3, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1)).tolist()
    text = "\n<|endoftext|>\n".join(" ".join(f"w{index}" for index in document) for document in (first, second))
    (tmp_path / "text.txt").write_text(text)
    student, teacher = tiny_llama(), tiny_qwen3()

    result = evaluate(student, tokenizer, tmp_path / "text.txt", teacher, sequence_length=20, max_tokens=70)

    ids = torch.tensor([*first, 2, *second])[:60].view(3, 20)
    assert result == evaluate_blocks(student, ids, teacher)
    assert set(json.loads(json.dumps(result.to_dict()))) == {
        "perplexity",
        "tokens",
        "kl",
        "top1_agreement",
        "teacher_perplexity",
        "kept",
    }
    output = capsys.readouterr()
    assert output.out == ""  # stdout belongs to --json
    assert "Evaluating" in output.err


def test_refusals(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "text.txt").write_text("w3 w4 w5")
    with pytest.raises(CalibrationDataError, match="has 3 tokens"):
        evaluate(tiny_llama(), tokenizer, tmp_path / "text.txt")
    with pytest.raises(CalibrationDataError, match="embeddings for 50"):
        evaluate(tiny_llama(vocab_size=50), tokenizer, tmp_path / "text.txt", sequence_length=3)
    with pytest.raises(ValueError, match=r"logits for 61 tokens, the teacher for 70"):
        evaluate(tiny_llama(), tokenizer, tmp_path / "text.txt", tiny_llama(vocab_size=70), sequence_length=3)
    with pytest.raises(ValueError, match=r"blocks has shape \(3, 1\)"):
        perplexity(tiny_llama(), torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="batch_size is 0"):
        perplexity(tiny_llama(), blocks(), batch_size=0)


def test_a_hopeless_model_has_a_finite_or_infinite_perplexity_not_an_error() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    assert perplexity(model, blocks()) == math.inf
