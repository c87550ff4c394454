# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the measuring programs rest on: the reference's rules, the needle texts, and the rows of the ablation."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import inference
from benchmarks.ablation import variants
from benchmarks.needle_task import ASK, END, MARK, SPECIAL, NeedleTask, accuracy, answer_positions
from benchmarks.needle_teacher import repeated_texts
from benchmarks.reference_layer import (
    ReferenceLayer,
    align,
    batches,
    calibrate,
    paper_value_scale,
    paper_write_gate,
    rows_repeated,
)
from benchmarks.serving import cache_bytes, cut
from benchmarks.serving_distance import read_by_transformers
from benchmarks.shapes import built, student, teacher
from planted import captured_layer, random_blocks, tiny_teacher
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.calibration.attention_statistics import AttentionStatistics
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from hf_tc.modeling.library_cache import cache_argument
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers

TASK = NeedleTask(filler=8, keys=16, values=16)


def test_write_gate_spans_the_paper_s_range() -> None:
    torch.testing.assert_close(paper_write_gate(torch.tensor([1.0, 3.0, 5.0])), torch.tensor([0.7, 0.5, 0.3]))
    assert paper_write_gate(torch.full((3,), 2.0)).isfinite().all()


def test_value_scale_is_the_least_squares_one_and_clipped() -> None:
    recurrence_output = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([2.0, 50.0, -1.0])
    found = paper_value_scale(recurrence_output, recurrence_output * scale[:, None])
    torch.testing.assert_close(found, torch.tensor([2.0, 10.0, 0.1]))


def test_rows_are_repeated_instead_of_heads() -> None:
    weight = torch.arange(4.0)[:, None]  # two heads of two channels
    assert rows_repeated(weight, 2).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_full_batches_and_minibatches() -> None:
    assert list(batches(4, None, 2, seed=0)) == [slice(None)] * 2
    drawn = list(batches(8, 3, 2, seed=0))
    assert all(len(set(rows.tolist())) == 3 for rows in drawn)
    assert drawn[0].tolist() != drawn[1].tolist()


@pytest.fixture(scope="module")
def captured():
    return captured_layer(tiny_teacher(), random_blocks(4, 70), 1)


def reference_layer() -> ReferenceLayer:
    teacher = tiny_teacher()
    return ReferenceLayer(find_attention(find_decoder_layers(teacher.base_model)[1])[1], teacher.config, seed=0)


def test_reference_layer_is_causal_and_its_two_recurrences_agree(captured) -> None:
    layer, x = reference_layer(), captured.attn_input
    inputs = layer.recurrence_inputs(x)
    chunked, stepped = (rule(**inputs)[0] for rule in (chunk_gated_delta_rule, recurrent_gated_delta_rule))
    torch.testing.assert_close(chunked, stepped, rtol=1e-4, atol=1e-5)
    changed = x.clone()
    changed[:, 50:] = 0.0
    with torch.no_grad():
        torch.nn.init.normal_(layer.g_proj)
        before, after = layer(x)[0], layer(changed)[0]
    torch.testing.assert_close(before[:, :50], after[:, :50])
    assert (before[:, 50:] - after[:, 50:]).abs().max() > 1e-3


def test_reference_calibration_sets_the_half_life_and_leaves_beta_around_a_half(captured) -> None:
    layer = reference_layer()
    statistics = AttentionStatistics(torch.full((4,), 80.0), torch.tensor([1.0, 2.0, 3.0, 4.0]), queries=10)
    calibrate(layer, captured, statistics)
    still = torch.zeros_like(captured.attn_input)  # W_a adds nothing
    decay = layer.recurrence_inputs(still)["log_decay"]
    torch.testing.assert_close(decay.exp() ** 8, torch.full_like(decay, 0.5), rtol=1e-4, atol=1e-4)
    mean_beta = layer.recurrence_inputs(captured.attn_input)["beta"].mean((0, 1))
    assert (mean_beta - 0.5).abs().max() < 0.1  # the target of the sharpest head is 0.7: without a bias it is missed


def test_reference_alignment_lowers_the_error_and_leaves_o_proj(captured) -> None:
    layer = reference_layer()
    calibrate(layer, captured, AttentionStatistics(torch.full((4,), 80.0), torch.ones(4), queries=10))
    o_proj, before = layer.o_proj.clone(), (layer(captured.attn_input)[0] - captured.teacher_output).square().mean()
    align(layer, captured, steps=20, batch_blocks=None, seed=0)
    after = (layer(captured.attn_input)[0] - captured.teacher_output).square().mean()
    assert after < 0.95 * before
    assert torch.equal(layer.o_proj, o_proj)


@pytest.mark.parametrize("depth", [None, 0.0, 0.5, 1.0])
def test_needle_texts_can_be_answered_from_what_they_say(depth) -> None:
    text = TASK.texts(32, 64, torch.Generator().manual_seed(0), needles=5, questions=3, depth=depth)
    assert text.shape == (32, 64)
    assert text.max() < TASK.vocab_size
    assert (text[:, -1] == END).all()
    places = (64 - 3 * 3 - 1) // 3
    for row in text.tolist():
        marks = [i for i, token in enumerate(row) if token == MARK]
        facts = {row[i + 1]: row[i + 2] for i in marks}
        questions = [i for i, token in enumerate(row) if token == ASK]
        assert (len(facts), len(questions)) == (5, 3)
        assert all(facts[row[i + 1]] == row[i + 2] for i in questions)
        if depth is not None:
            assert row.index(row[questions[0] + 1]) == 3 * round(depth * (places - 1)) + 1
    assert answer_positions(text).sum(1).tolist() == [3] * 32


def test_needle_texts_depend_on_the_seed_alone_and_refuse_what_does_not_fit() -> None:
    one, same, other = (TASK.texts(2, 64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="9 needles"):
        TASK.texts(1, 24, torch.Generator(), needles=9)


def test_accuracy_counts_answers_only() -> None:
    text = TASK.texts(8, 40, torch.Generator().manual_seed(0), needles=3, questions=2)
    answers = text.clone()
    answers[:4, -2] = SPECIAL  # wrong last answer in half of the texts

    class Oracle(torch.nn.Linear):
        def forward(self, input_ids):  # says what comes next, as `answers` has it
            logits = torch.nn.functional.one_hot(answers, TASK.vocab_size).roll(-1, dims=1).float()
            return type("Output", (), {"logits": logits})

    assert accuracy(Oracle(1, 1), text) == pytest.approx(12 / 16)


def test_repeats_repeat() -> None:
    text = repeated_texts(TASK, 3, 12, torch.Generator().manual_seed(0))
    for row in text.tolist():
        first, second = row[:6], row[6:]
        assert any(first[start:] + first[:start] == second for start in range(6))


def test_ablation_has_each_piece_alone_and_left_out() -> None:
    rows = dict(variants(("a", "b", "c")))
    assert rows["copied weights"] is None
    assert (rows["no piece"], rows["all components"]) == ([], ["a", "b", "c"])
    assert (rows["b alone"], rows["all but b"]) == (["b"], ["a", "c"])
    assert len(rows) == 9


class LargestTensor(TorchDispatchMode):
    """Values of the largest tensor that an operation inside returns."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = result if isinstance(result, tuple | list) else (result,)
        self.values = max([self.values, *(x.numel() for x in found if isinstance(x, torch.Tensor))])
        return result


@pytest.mark.parametrize("build", [teacher, student])
@torch.no_grad()
def test_inference_makes_nothing_as_large_as_an_attention_map(build, monkeypatch: pytest.MonkeyPatch) -> None:
    length, model = 1024, built(build("tiny", 2048), "cpu", torch.float32)
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    with LargestTensor() as largest:
        model(torch.ones(1, length, dtype=torch.long), logits_to_keep=1, **cache_argument(DynamicCache()))
        for form in ("eager", "compiled"):
            inference.decode_step(model, form, 1, length, "cpu")()
    assert 128 * length <= largest.values < length**2  # the widest linear module, and no map of all tokens by all


@pytest.mark.parametrize("form", ["eager", "compiled"])
@torch.no_grad()
def test_decoding_starts_from_a_cache_of_that_many_tokens(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Any] = []
    fill = inference.fill
    monkeypatch.setattr(inference, "fill", lambda cache, length: (fill(cache, length), filled.append(cache)))
    inference.decode_step(built(student("tiny", 256), "cpu", torch.float32), form, 2, 100, "cpu")
    (cache,) = filled
    assert {int(layer.get_seq_length()) for layer in cache.layers} == {100}
    keys = cache.layers[0].keys
    assert keys.shape[:2] == (2, 2)
    assert keys.shape[2] == (100 if form == "eager" else 100 + inference.GROWTH)
    assert (keys[:, :, :100] != 0).all()


def test_prompts_of_the_servers_have_their_length_and_follow_one_another() -> None:
    prompts = cut(Path(sample_text_path("heldout")), str(tiny_teacher_path()), 50, 3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path())
    lengths = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    assert all(49 <= length <= 52 for length in lengths)  # a cut between two tokens may be read as others
    assert "".join(prompts) in Path(sample_text_path("heldout")).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="need 50000000"):
        cut(Path(sample_text_path("heldout")), str(tiny_teacher_path()), 50, 1_000_000)


def test_cache_of_a_sequence_is_what_vllm_says_of_how_many_fit(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "CPU KV cache size: 3,840 tokens, Maximum concurrency for 2,112 tokens per request: 1,024.00x"
    )
    assert cache_bytes(tmp_path / "log", 2) == 2 * 2**20


def test_log_probabilities_are_those_of_the_last_tokens_by_the_model_s_own_loss() -> None:
    rows = torch.randint(2, 500, (2, 3, 20), generator=torch.Generator().manual_seed(0))
    scores = read_by_transformers(str(tiny_teacher_path()), "float32", "cpu", rows, 5)
    assert scores.shape == (2, 3, 5)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_path(), dtype=torch.float32).eval()
    labels = rows.clone()
    labels[..., :-5] = -100
    for index in range(2):
        torch.testing.assert_close(-scores[index].mean(), model(rows[index], labels=labels[index]).loss)


def test_inference_measures_both_models_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MOST_ROWS", 2)
    sizes = ["--shape", "tiny", "--device", "cpu", "--lengths", "32", "64", "--decode", "eager", "--batch-at", "32"]
    files = ["--out", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "plot.png")]
    monkeypatch.setattr(sys, "argv", ["inference", *sizes, *files])
    inference.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    single = [row for row in rows if row["model"] == "student" and row["batch"] == 1]
    assert [row["length"] for row in single] == [32, 64]
    assert all(row["prefill s"] > 0 and row["eager ms"] > 0 for row in single)
    assert [row["batch"] for row in rows if "tokens/s" in row] == [2, 2]
    assert (tmp_path / "plot.png").stat().st_size > 10_000
