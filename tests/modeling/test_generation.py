# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Every way of decoding gives the tokens that decoding without a cache gives."""

import importlib.util
from unittest.mock import MagicMock

import pytest
import quanto_in_torch
import torch
from tiny_models import pad_rows, student, token_ids
from torch._dynamo import testing as dynamo_testing
from transformers import AutoModelForCausalLM, CompileConfig, DynamicCache, GenerationConfig, StaticCache
from transformers.cache_utils import DynamicLayer

from hf_tc.modeling import GDNCacheLayer, HybridGDNForCausalLM
from hf_tc.modeling.cache_adoption import OFFLOADING_IS_SAFE, adopt_cache
from hf_tc.modeling.library_cache import cache_argument, cache_of

ALL = (0, 1, 2, 3)
STUDENTS = [("llama", (0, 2)), ("qwen2", (0, 2)), ("qwen2", ALL), ("mistral", (1,)), ("qwen3_moe", (0, 3))]
NEW = 9


def decode(model, ids: torch.Tensor, mask: torch.Tensor | None = None, **arguments) -> list[list[int]]:
    """The new tokens; sampling draws the same numbers each time."""
    torch.manual_seed(5)
    mask = torch.ones_like(ids) if mask is None else mask
    arguments = {"do_sample": False, **arguments}
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **arguments)
    return tokens[:, ids.shape[1] :].tolist()


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.5},
    "beam": {"num_beams": 3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
}


@pytest.mark.parametrize(("family", "linear"), STUDENTS)
@pytest.mark.parametrize("mode", MODES)
def test_a_cache_changes_no_token(family: str, linear: tuple[int, ...], mode: str) -> None:
    model = student(family, linear)
    ids, mask = pad_rows([token_ids(6), token_ids(4, seed=2)], [0, 2], 6)
    expected = decode(model, ids, mask, use_cache=False, **MODES[mode])
    assert decode(model, ids, mask, **MODES[mode]) == expected
    assert len({tuple(row) for row in expected}) > 1


@pytest.mark.parametrize(("family", "linear"), STUDENTS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_prefill_in_chunks(family: str, linear: tuple[int, ...], chunk: int) -> None:
    model = student(family, linear)
    ids, mask = pad_rows([token_ids(9), token_ids(4, seed=2)], [0, 5], 9)
    assert decode(model, ids, mask, prefill_chunk_size=chunk) == decode(model, ids, mask, use_cache=False)


@pytest.mark.parametrize(("family", "linear"), STUDENTS)
def test_padded_rows_decode_as_they_do_alone(family: str, linear: tuple[int, ...]) -> None:
    model, rows = student(family, linear), [token_ids(6), token_ids(3, seed=2)]
    batched = decode(model, *pad_rows(rows, [0, 3], 6))
    assert batched == [decode(model, row[None])[0] for row in rows]


@pytest.mark.parametrize(("family", "linear"), STUDENTS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache(family: str, linear: tuple[int, ...], beams: int) -> None:
    model = student(family, linear)
    ids, mask = pad_rows([token_ids(6), token_ids(4, seed=2)], [0, 2], 6)
    static = decode(model, ids, mask, cache_implementation="static", disable_compile=True, num_beams=beams)
    assert static == decode(model, ids, mask, use_cache=False, num_beams=beams)


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_static_cache_prefilled_in_chunks(chunk: int | None) -> None:
    model = student("qwen2", ALL)
    ids, mask = pad_rows([token_ids(9), token_ids(4, seed=2)], [0, 5], 9)
    arguments = dict(cache_implementation="static", disable_compile=True, prefill_chunk_size=chunk)
    assert decode(model, ids, mask, **arguments) == decode(model, ids, mask, use_cache=False)


@pytest.mark.parametrize(("family", "linear"), [("llama", (0, 2)), ("qwen2", ALL)])
def test_the_decode_step_compiles_to_one_graph_once(family: str, linear: tuple[int, ...]) -> None:
    model, ids = student(family, linear), token_ids(2, 6)
    expected = decode(model, ids, use_cache=False)
    counter = dynamo_testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(model.forward, fullgraph=True, backend=counter)
    cache = StaticCache(config=model.config, max_cache_len=32)
    with torch.no_grad():
        logits = model(ids, **cache_argument(cache)).logits
        found = []
        for step in range(NEW):
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            found.append(tokens)
            positions = torch.full((2, 1), 6 + step)
            masks = model.create_masks_for_generate(
                config=model.config,
                inputs_embeds=torch.empty(2, 1, 32),
                attention_mask=torch.ones(2, 7 + step, dtype=torch.long),
                **cache_argument(cache),
                position_ids=positions,
            )
            logits = compiled(tokens, attention_mask=masks, position_ids=positions, **cache_argument(cache)).logits
    assert torch.cat(found, dim=1).tolist() == expected
    assert counter.frame_count == 1


def test_generate_compiles_with_a_static_cache() -> None:
    model, ids = student("qwen2", (0, 2)), token_ids(2, 6)
    torch._dynamo.reset()
    config = CompileConfig(backend="aot_eager", fullgraph=True)
    config._compile_all_devices = True
    compiled = decode(model, ids, cache_implementation="static", compile_config=config)
    assert compiled == decode(model, ids, use_cache=False)


def test_continuation_from_a_cache() -> None:
    model, ids = student("qwen2", (0, 2)), token_ids(1, 6)
    first = model.generate(ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    expected = decode(model, first.sequences, use_cache=False)
    assert decode(model, first.sequences, **cache_argument(cache_of(first))) == expected


def test_continuation_with_more_prompt() -> None:
    model, ids, cache = student("qwen2", ALL), token_ids(2, 8), DynamicCache()
    model(ids[:, :3], **cache_argument(cache))
    assert decode(model, ids, **cache_argument(cache)) == decode(model, ids, use_cache=False)


def test_embeddings_as_prompt() -> None:
    model, ids = student("qwen2", (0, 2)), token_ids(2, 6)
    embeddings = model.get_input_embeddings()(ids)
    for arguments in ({}, {"cache_implementation": "static", "disable_compile": True}):
        tokens = model.generate(inputs_embeds=embeddings, max_new_tokens=NEW, do_sample=False, **arguments)
        assert tokens.tolist() == decode(model, ids, use_cache=False)


def echoing_prompt() -> torch.Tensor:
    """Repeats itself, so that prompt lookup finds candidates."""
    return token_ids(1, 4).repeat(1, 4)


@pytest.mark.parametrize(("family", "linear"), STUDENTS)
def test_prompt_lookup_gives_greedys_tokens(family: str, linear: tuple[int, ...], monkeypatch) -> None:
    model, ids, crops = student(family, linear), echoing_prompt(), []
    crop = GDNCacheLayer.crop
    monkeypatch.setattr(GDNCacheLayer, "crop", lambda self, n: crops.append(n) or crop(self, n))
    expected = decode(model, ids, use_cache=False)
    assert decode(model, ids, prompt_lookup_num_tokens=3) == expected
    assert any(n < 0 for n in crops)


@pytest.mark.parametrize(("family", "linear"), [("llama", (0, 2)), ("qwen2", ALL)])
@pytest.mark.parametrize("assistant", ["itself", "student", "teacher"])
def test_assisted_decoding_gives_greedys_tokens(family: str, linear: tuple[int, ...], assistant: str) -> None:
    model, ids = student(family, linear), token_ids(1, 7)
    helper = {
        "itself": model,
        "student": student(family, (1,)),
        "teacher": AutoModelForCausalLM.from_config(model.config.text_config).eval(),
    }[assistant]
    assert decode(model, ids, assistant_model=helper) == decode(model, ids, use_cache=False)
    if assistant == "teacher":
        assert decode(helper, ids, assistant_model=model) == decode(helper, ids, use_cache=False)


def test_a_quantised_cache_quantises_attention_layers_or_is_refused_clearly(monkeypatch) -> None:
    model, ids = student("llama", (0, 2), head_dim=64), token_ids(1, 6)
    arguments = dict(
        max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, cache_implementation="quantized"
    )
    settings = {"backend": "quanto", "nbits": 4, "q_group_size": 32}
    if importlib.util.find_spec("optimum") is None:
        with pytest.raises(ImportError, match="quanto"):
            model.generate(ids, cache_config=settings, **arguments)
        return
    quanto_in_torch.use_torch(monkeypatch)
    cache = cache_of(model.generate(ids, cache_config=settings, **arguments))
    assert [isinstance(layer, GDNCacheLayer) for layer in cache.layers] == [True, False, True, False]
    assert "Quant" in type(cache.layers[1]).__name__


@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_an_offloaded_cache(kind: str, monkeypatch) -> None:
    model, ids = student("llama"), token_ids(1, 6)
    expected = decode(model, ids)
    if torch.cuda.is_available():
        model, ids = model.cuda(), ids.cuda()
    else:
        with pytest.raises(ValueError, match=r"no accelerator.*Leave it out"):
            decode(model, ids, cache_implementation=kind)
        # The rest on the CPU, where moving to it moves nothing and there is nothing to wait for.
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch, "Stream", MagicMock)
        monkeypatch.setattr(torch.cuda, "default_stream", MagicMock())
    if not OFFLOADING_IS_SAFE:
        with pytest.raises(ValueError, match=r"Offloaded caches.*Use Transformers 5\.20"):
            decode(model, ids, cache_implementation=kind, disable_compile=True)
        return
    assert decode(model, ids, cache_implementation=kind, disable_compile=True) == expected


def test_only_the_last_tokens_logits_are_computed() -> None:
    model, lengths = student("llama"), []
    model.lm_head.register_forward_pre_hook(lambda head, arguments: lengths.append(arguments[0].shape[1]))
    decode(model, token_ids(1, 6))
    assert lengths == [1] * NEW


def test_the_teachers_generation_settings_are_not_lost(tmp_path) -> None:
    model = student()
    model.generation_config = GenerationConfig(eos_token_id=[5, 6], pad_token_id=0, temperature=0.5, do_sample=True)
    model.save_pretrained(tmp_path)
    again = HybridGDNForCausalLM.from_pretrained(tmp_path).generation_config
    assert (again.eos_token_id, again.temperature, again.do_sample) == ([5, 6], 0.5, True)


def test_a_prompt_beyond_the_teachers_context_warns(caplog) -> None:
    model = student(max_position_embeddings=16)
    with caplog.at_level("WARNING"):
        model.generate(token_ids(1, 12), max_new_tokens=8, do_sample=False)
    assert "maximum" in caplog.text.lower()


def crops_unused_layers() -> bool:
    try:
        DynamicLayer().crop(-1)
    except TypeError:
        return False
    return True


EARLY_EXITS = [((), 1), ((0,), 1), ((0, 2), 3), ((0, 2), 1), ((3,), 2), (ALL, 2)]


# Before 5.20 or so, a cache layer that no token had reached could not be cropped, the teacher's neither.
NEEDS_EARLY_EXIT = pytest.mark.skipif(not crops_unused_layers(), reason="this Transformers fails at early exit itself")


@NEEDS_EARLY_EXIT
@pytest.mark.parametrize(("linear", "layers"), EARLY_EXITS)
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_early_exit_gives_greedys_tokens(family: str, linear: tuple[int, ...], layers: int) -> None:
    model, ids = student(family, linear), token_ids(1, 7)
    expected, logits = decode(model, ids, use_cache=False), model(ids).logits
    assert decode(model, ids, assistant_early_exit=layers) == expected
    assert model.config.num_hidden_layers == 4
    assert torch.equal(model(ids).logits, logits)


@NEEDS_EARLY_EXIT
@pytest.mark.parametrize("failing", ["draft", "verification"])
def test_generation_that_fails_leaves_the_model_as_it_was(failing: str) -> None:
    model, ids = student("qwen3", (0, 2)), token_ids(1, 7)
    logits, steps = model(ids).logits, []

    def fail(module, args, kwargs) -> None:
        steps.append(model.config.num_hidden_layers)
        if len(steps) > 2 and (steps[-1] < 4) == (failing == "draft"):
            raise MemoryError

    hook = model.model.layers[0].register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(MemoryError):
        decode(model, ids, assistant_early_exit=1)
    hook.remove()
    assert model.config.num_hidden_layers == 4
    assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize(
    "assisted",
    [{"prompt_lookup_num_tokens": 3}, pytest.param({"assistant_early_exit": 2}, marks=NEEDS_EARLY_EXIT)],
    ids=str,
)
@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_recording_ends_with_the_call_that_needed_it(family: str, assisted: dict) -> None:
    model, ids, cache = student(family, (0, 2)), echoing_prompt(), DynamicCache()
    tokens = model.generate(ids, max_new_tokens=5, do_sample=False, **cache_argument(cache), **assisted)
    kept = [layer for layer in cache.layers if getattr(layer, "record_past", False)]
    assert not kept
    more = model.generate(tokens, max_new_tokens=30, do_sample=False, **cache_argument(cache))
    assert all(layer.recording is None for layer in cache.layers if isinstance(layer, GDNCacheLayer))
    assert torch.equal(more, model.generate(tokens, max_new_tokens=30, do_sample=False, use_cache=False))


def test_recording_that_the_user_began_goes_on() -> None:
    model, ids = student("qwen2", (0, 2)), echoing_prompt()
    cache = DynamicCache(config=model.config.text_config)
    adopt_cache(cache, model.config.linear_layers, model.config.num_hidden_layers)
    cache.activate_past_recording()
    decode(model, ids, prompt_lookup_num_tokens=3, **cache_argument(cache))
    assert all(layer.record_past for layer in cache.layers if isinstance(layer, GDNCacheLayer))


def test_continuous_batching_is_refused_in_our_words() -> None:
    model, words = student(), "does not support recurrent layers; use generate"
    for call in (
        lambda: model.generate_batch([[3, 4, 5]]),
        lambda: model.init_continuous_batching(),
        lambda: model.continuous_batching_context_manager().__enter__(),
    ):
        with pytest.raises((NotImplementedError, AttributeError), match=words):
            call()
    assert not hasattr(model, "init_continuous_batching")  # how `transformers serve` asks
