# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What only a GPU shows: fla's kernels on packed documents, compiled decoding, offloaded caches, several GPUs."""

import importlib.util
import re

import pytest
import torch
from test_gated_delta_rule import LENGTHS, draw, random_starts, relative_error
from tiny_models import packed_row, pad_rows, student, token_ids
from transformers import DynamicCache

from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.cache_adoption import OFFLOADING_IS_SAFE
from hf_tc.modeling.fla_kernels import HOPPER_CONFIGS, WIDE_HOPPER_CONFIGS, _hopper_tuners, fla_gated_delta_rule
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule, fla_is_usable, gated_delta_rule
from hf_tc.modeling.library_cache import cache_argument
from hf_tc.modeling.tf32 import NAME, TF32

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_fla = pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="needs flash-linear-attention")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
WIDE = dict(hidden_size=128, head_dim=64, num_attention_heads=2, num_key_value_heads=2)  # a size of fla's kernels
DOCUMENTS = [70, 1, 130, 64]
ROUNDING = {torch.bfloat16: 2e-2, torch.float32: 5e-3}  # fla multiplies in TF32 at most


def on_gpu(problem: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The problem as fla takes it: what is projected in `dtype`, gates and state in float32."""
    return {name: x.to("cuda", dtype if name in ("q", "k", "v") else torch.float32) for name, x in problem.items()}


@needs_fla
def test_flas_tuning_is_left_what_was_chosen() -> None:
    """Where it has none of the chosen configurations, it tries all of its own."""
    for tuner, narrow, wide in _hopper_tuners():
        name = tuner.base_fn.__name__
        for left, chosen in (
            (narrow, HOPPER_CONFIGS[name]),
            (wide, WIDE_HOPPER_CONFIGS.get(name, HOPPER_CONFIGS[name])),
        ):
            assert all((config.num_warps, config.num_stages, config.kwargs) in chosen for config in left), name


@needs_fla
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
def test_flas_kernels_equal_the_torch_form(dtype: torch.dtype, length: int, packed: bool) -> None:
    problem = on_gpu(draw(length, key_dim=64, value_dim=64), dtype)
    starts = random_starts(length).cuda() if packed else None
    with torch.no_grad():
        actual = fla_gated_delta_rule(**problem, document_start=starts)
        expected = chunk_gated_delta_rule(**{n: x.double() for n, x in problem.items()}, document_start=starts)
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours.double(), theirs) < ROUNDING[dtype]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_torch_form_of_bfloat16_values_in_tf32(length: int, packed: bool) -> None:
    """Outputs and gradients of the same values in float64."""
    problem = on_gpu(draw(length, key_dim=64, value_dim=64), torch.bfloat16)
    starts = random_starts(length).cuda() if packed else None
    torch.set_float32_matmul_precision("highest")  # whatever a test before left
    results, before = [], getattr(torch.backends.cuda.matmul, NAME)
    assert before != TF32
    for inputs in (problem, {name: x.double() for name, x in problem.items()}):
        inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        output = chunk_gated_delta_rule(**inputs, document_start=starts)[0]
        given = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
        results.append([output, *torch.autograd.grad(output, list(inputs.values()), given)])
    for ours, exact in zip(*results, strict=True):
        assert relative_error(ours.double(), exact) < 1e-2
    assert getattr(torch.backends.cuda.matmul, NAME) == before


@needs_fla
def test_nothing_crosses_documents_in_flas_kernels() -> None:
    problem = on_gpu(draw(265, batch=1, key_dim=64, value_dim=64), torch.bfloat16)
    starts = torch.zeros(1, 265, dtype=torch.bool, device="cuda")
    starts[0, [0, 70, 200]] = True
    changed = {name: x if name == "state" else x.clone() for name, x in problem.items()}
    for name in ("k", "v"):
        changed[name][:, :70] = changed[name][:, :70].roll(1, dims=-1)
    with torch.no_grad():
        before, after = (fla_gated_delta_rule(**p, document_start=starts)[0] for p in (problem, changed))
    assert not torch.equal(before[:, :70], after[:, :70])
    assert torch.equal(before[:, 70:], after[:, 70:])


@needs_fla
@pytest.mark.parametrize("linear", [(0, 2), (0, 1, 2, 3)])
def test_a_packed_student_on_flas_kernels(linear: tuple[int, ...]) -> None:
    model = student("qwen3", linear, **WIDE).to("cuda", torch.bfloat16)
    assert fla_is_usable(torch.device("cuda", 0), torch.bfloat16, 2, 64, 64, False)
    documents = [token_ids(length, seed=length).cuda() for length in DOCUMENTS]
    with torch.no_grad():
        packed = model(**packed_row(documents)).logits[0].float()
        apart = torch.cat([model(document[None]).logits[0] for document in documents]).float()
    assert relative_error(packed, apart) < 3e-2


def by_kind(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of all layers as one: what is a small difference of large sums in a layer's decay says little of it."""
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, gradient in gradients.items():
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name), []).append(gradient.flatten())
    return {kind: torch.cat(parts) for kind, parts in kinds.items()}


def test_packed_gradients_on_a_gpu() -> None:
    """By fla's backward where it is right, by the torch form where it is not."""
    model = student("qwen3", (0, 2), **WIDE).cuda()
    documents = [token_ids(length, seed=length).cuda() for length in DOCUMENTS]
    gradients = []
    for rows in ([packed_row(documents)], [{"input_ids": document[None]} for document in documents]):
        model.zero_grad()
        for row in rows:
            model(**row).logits.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    packed, apart = map(by_kind, gradients)
    for name, expected in apart.items():
        assert relative_error(packed[name], expected) < 3e-2, name  # of small sums of TF32 products


@pytest.mark.parametrize("dtype", ROUNDING)
def test_decoding_equals_a_full_forward(dtype: torch.dtype) -> None:
    model, ids = student("qwen3", (0, 2), **WIDE).to("cuda", dtype), token_ids(2, 150).cuda()
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits.float()
        cache = DynamicCache()
        parts = [model(ids[:, part], **cache_argument(cache)).logits for part in (slice(140), slice(140, 141))]
        parts += [model(ids[:, t : t + 1], **cache_argument(cache)).logits for t in range(141, 150)]
    assert relative_error(torch.cat(parts, 1).float(), expected) < 2 * ROUNDING[dtype]


@pytest.mark.parametrize("cache", ["static", "offloaded", "offloaded_static"])
@pytest.mark.parametrize("linear", [(0, 2), (1, 3)])
def test_every_cache_gives_the_same_tokens(cache: str, linear: tuple[int, ...]) -> None:
    """A static cache is decoded by compiled CUDA graphs; a race in offloading would show in some of ten runs."""
    offloaded = cache.startswith("offloaded")
    if offloaded and not OFFLOADING_IS_SAFE:
        pytest.skip("this release of Transformers offloads wrongly, so that it is refused")
    model = student("llama", linear).cuda()
    ids, mask = (x.cuda() for x in pad_rows([token_ids(70), token_ids(40, seed=2)], [0, 30], 70))
    arguments = dict(attention_mask=mask, max_new_tokens=9, do_sample=False)
    expected = model.generate(ids, **arguments)
    for _ in range(10 if offloaded else 2):
        # torch 2.11's compiler crashes on the streams of an offloaded cache, whatever the model.
        tokens = model.generate(ids, cache_implementation=cache, disable_compile=offloaded, **arguments)
        assert tokens.tolist() == expected.tolist()


def test_compiled_decoding_is_a_cuda_graph() -> None:
    """The compiler leaves graphs out, and says so in a counter alone, where something that is written may move."""
    from torch._dynamo.utils import counters

    counters["inductor"].clear()
    model, ids = student("llama", (0, 2)).cuda(), token_ids(2, 20).cuda()
    model.generate(ids, cache_implementation="static", max_new_tokens=6, do_sample=False)
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_the_gpu_form_does_not_depend_on_other_gpus_being_current() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    problem = {name: x.to(device, torch.float32) for name, x in draw(70).items()}
    recurrence_output = gated_delta_rule(**problem)[0]
    expected = chunk_gated_delta_rule(**{name: x.cpu() for name, x in problem.items()})[0]
    assert recurrence_output.device == device
    torch.testing.assert_close(recurrence_output.cpu(), expected, rtol=1e-3, atol=1e-3)


@needs_two
@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_student_on_two_gpus(dtype: torch.dtype, tmp_path) -> None:
    alone, ids = student("qwen3", (0, 2), **WIDE).to("cuda:0", dtype), token_ids(2, 90).cuda()
    alone.save_pretrained(tmp_path)
    parts = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
    device_map = {**parts, **{f"model.layers.{i}": i % 2 for i in range(4)}}
    split = HybridGDNForCausalLM.from_pretrained(tmp_path, device_map=device_map, dtype=dtype)
    assert {p.device.index for p in split.parameters()} == {0, 1}
    with torch.no_grad():
        assert relative_error(split(ids).logits.float().to("cuda:0"), alone(ids).logits.float()) < ROUNDING[dtype]
    for arguments in ({}, {"num_beams": 3}, {"prefill_chunk_size": 40}):
        arguments = {"max_new_tokens": 9, "do_sample": False, **arguments}
        assert split.generate(ids, **arguments).tolist() == alone.generate(ids, **arguments).tolist()
