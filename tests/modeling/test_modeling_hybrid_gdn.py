# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student as a library model: the teacher's equal where nothing is converted, and everything models must do."""

import copy
from pathlib import Path

import pytest
import torch
from library_names import checkpoint_activations, checkpoints_activations
from tiny_models import FAMILIES, perturb, student, student_config, teacher_config, token_ids
from tiny_sizes import VOCABULARY
from transformers import AutoModel, AutoModelForCausalLM

from hf_tc import modeling
from hf_tc.modeling import GatedDeltaNet, HybridGDNForCausalLM, HybridGDNModel


@pytest.mark.parametrize("family", FAMILIES)
def test_with_no_layer_converted_it_is_the_teacher(family: str) -> None:
    teacher = perturb(AutoModelForCausalLM.from_config(teacher_config(family)))
    model = HybridGDNForCausalLM(student_config(family, linear=())).eval()
    assert list(model.state_dict()) == list(teacher.state_dict())
    model.load_state_dict(teacher.state_dict())
    ids = token_ids(2, 12)
    expected, actual = (m(ids, labels=ids, output_hidden_states=True) for m in (teacher, model))
    assert torch.equal(actual.logits, expected.logits)
    assert torch.equal(actual.loss, expected.loss)
    assert all(torch.equal(a, b) for a, b in zip(actual.hidden_states, expected.hidden_states, strict=True))
    assert len(actual.hidden_states) == len(expected.hidden_states) == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_converting_a_layer_changes_only_that_layers_parameters(family: str) -> None:
    teacher = AutoModelForCausalLM.from_config(teacher_config(family)).state_dict()
    model = student(family, linear=(1,)).state_dict()
    assert set(teacher) <= set(model)
    added = {name.removeprefix("model.layers.1.self_attn.") for name in set(model) - set(teacher)}
    gates = {
        "short_conv.weight",
        "A_log",
        "dt_bias",
        "a_proj.weight",
        "b_proj.weight",
        "b_proj.bias",
        "g_proj.weight",
        "g_proj.bias",
        "first_token_weight",
    }
    assert added == gates


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family: str, tmp_path) -> None:
    model = student(family)
    model.save_pretrained(tmp_path)
    again, report = HybridGDNForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    own_code = {path.name for path in Path(modeling.__file__).parent.glob("*.py")}
    assert {path.name for path in tmp_path.glob("*.py")} <= own_code
    assert {path.suffix for path in tmp_path.iterdir()} <= {".py", ".json", ".md", ".safetensors"}
    ids = token_ids(2, 12)
    assert torch.equal(again(ids).logits, model(ids).logits)
    tied = model.config.tie_word_embeddings
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied == (family == "llama")
    assert again.config.layer_types == model.config.layer_types


def test_the_backbone_and_the_language_model_load_each_others_folders(tmp_path) -> None:
    model, ids = student("qwen2"), token_ids(2, 12)
    hidden = model.model(ids).last_hidden_state
    model.save_pretrained(tmp_path / "lm")
    backbone, report = AutoModel.from_pretrained(tmp_path / "lm", output_loading_info=True)
    assert type(backbone) is HybridGDNModel
    assert not report["missing_keys"]
    assert torch.equal(backbone(ids).last_hidden_state, hidden)
    model.base_model.save_pretrained(tmp_path / "backbone")
    lm, report = HybridGDNForCausalLM.from_pretrained(tmp_path / "backbone", output_loading_info=True)
    assert report["missing_keys"] == {"lm_head.weight"}
    assert torch.equal(lm.model(ids).last_hidden_state, hidden)


def test_base_model_is_the_backbone() -> None:
    model, ids = student(), token_ids(1, 9)
    assert type(model.base_model) is HybridGDNModel
    assert torch.equal(model.lm_head(model.base_model(ids).last_hidden_state), model(ids).logits)


@pytest.mark.parametrize("saved", [(), (1,), (1, 3)])
def test_weights_of_other_layers_are_refused(saved: tuple[int, ...], tmp_path) -> None:
    student(linear=saved).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit layer_types.*layers\.1\.self_attn.*from_teacher"):
        HybridGDNForCausalLM.from_pretrained(tmp_path, config=student_config(linear=() if saved else (1,)))


def test_a_teachers_folder_is_no_student(tmp_path) -> None:
    AutoModelForCausalLM.from_config(teacher_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no gates for \['model.layers.1.self_attn'\]"):
        HybridGDNForCausalLM.from_pretrained(tmp_path, config=student_config(linear=(1,)))


def test_new_gates_start_with_usual_values() -> None:
    mixer = HybridGDNForCausalLM(student_config(linear=(1,))).model.layers[1].self_attn
    assert torch.equal(mixer.short_conv.weight[0], torch.ones(64))
    assert not mixer.short_conv.weight[1:].any()
    steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert steps.min().item() == pytest.approx(1e-3)
    assert steps.max().item() == pytest.approx(1e-1)
    assert mixer.A_log.exp().max().item() == pytest.approx(16.0)


def test_resizing_the_vocabulary_reaches_both_ends() -> None:
    model, ids = student("llama"), token_ids(1, 9)
    before = model(ids).logits
    model.resize_token_embeddings(VOCABULARY + 4)
    assert model.config.vocab_size == model.config.text_config.vocab_size == VOCABULARY + 4
    assert model.lm_head.weight is model.get_input_embeddings().weight is model.model.embed_tokens.weight
    assert model.lm_head.weight is model.get_output_embeddings().weight
    logits = model(ids + 4).logits
    assert logits.shape == (1, 9, VOCABULARY + 4)
    torch.testing.assert_close(model(ids).logits[..., :VOCABULARY], before, rtol=0, atol=1e-5)


def test_a_replaced_head_is_used() -> None:
    model, ids = student("qwen3"), token_ids(1, 9)
    model.set_output_embeddings(torch.nn.Linear(32, 7))
    assert model(ids).logits.shape == (1, 9, 7)


def test_a_deep_copy_is_apart() -> None:
    model, ids = student(), token_ids(1, 9)
    before, clone = model(ids).logits, copy.deepcopy(model)
    assert torch.equal(clone(ids).logits, before)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert not clone(ids).logits.any()
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_under_checkpointing(family: str, reentrant: bool) -> None:
    ids, gradients = token_ids(2, 12), []
    for checkpointing in (False, True):
        model = student(family).train()
        if checkpointing:
            checkpoint_activations(model, use_reentrant=reentrant)
            assert checkpoints_activations(model)
            model.enable_input_require_grads()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    plain, checkpointed = gradients
    assert all(gradient is not None for gradient in plain.values())
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_checkpointing_recomputes_the_recurrent_layers(monkeypatch) -> None:
    calls, forward = [], GatedDeltaNet.forward
    monkeypatch.setattr(GatedDeltaNet, "forward", lambda self, *a, **k: calls.append(self) or forward(self, *a, **k))
    model, ids = student(linear=(1,)).train(), token_ids(1, 8)
    checkpoint_activations(model)
    model(ids, labels=ids).loss.backward()
    assert len(calls) == 2


def test_the_attention_implementation_reaches_the_retained_layers() -> None:
    model, ids = student("qwen2"), token_ids(1, 9)
    expected = model(ids).logits
    assert model.model.layers[1].self_attn.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.model.layers[1].self_attn.config._attn_implementation == "eager"
    torch.testing.assert_close(model(ids).logits, expected)
    weights = model(ids, output_attentions=True).attentions
    assert weights[1].shape == (1, 4, 9, 9)
    eager = HybridGDNForCausalLM._from_config(student_config("qwen2"), attn_implementation="eager")
    assert eager.model.layers[1].self_attn.config._attn_implementation == "eager"


def test_the_experts_implementation_reaches_the_experts(tmp_path) -> None:
    model, ids = student("qwen3_moe"), token_ids(1, 9)
    model.save_pretrained(tmp_path)
    expected = model(ids).logits
    loaded = HybridGDNForCausalLM.from_pretrained(tmp_path, experts_implementation="grouped_mm")
    for name in ("grouped_mm", "eager", "batched_mm"):
        loaded.set_experts_implementation(name)
        assert (
            loaded.config._experts_implementation == loaded.model.layers[0].mlp.experts.config._experts_implementation
        )
        assert loaded.config._experts_implementation == name
        torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=2e-4)


def test_bfloat16_stays_near_float32(tmp_path) -> None:
    model, ids = student("qwen2"), token_ids(2, 12)
    expected = model(ids).logits
    model.save_pretrained(tmp_path)
    half = HybridGDNForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    logits = half(ids).logits
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.05
    generated = half.generate(ids[:1], max_new_tokens=4, do_sample=False)
    assert generated.shape == (1, 16)


def test_mixed_dtypes_under_autocast_train() -> None:
    model, ids = student("qwen3").train(), token_ids(2, 12)
    expected = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_layer_in_another_dtype_is_refused() -> None:
    model, ids = student("qwen3"), token_ids(1, 5)
    model.model.layers[2].self_attn.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"Layer 2 is in torch.bfloat16 and its input in torch.float32\. Bring"):
        model(ids)
    with pytest.raises(ValueError, match=r"Layer 0 is in torch.bfloat16 and its input in torch.float32"):
        student("qwen3").to(torch.bfloat16)(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size))


def test_recurrent_layers_refuse_to_run_without_their_mask() -> None:
    model = student()
    with pytest.raises(RuntimeError, match="recurrent_mask"):
        model.model.layers[0].self_attn(torch.zeros(1, 3, 32))


def test_neither_ids_nor_embeddings_is_refused() -> None:
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        student()()


def test_a_step_of_training_lowers_the_loss() -> None:
    model, ids = student("qwen3_moe").train(), token_ids(2, 12)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
