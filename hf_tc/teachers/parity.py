# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Self-check before a conversion: does this family, in the installed Transformers, still do what composition needs?

The student is built from the library's own classes, which change. A two-layer random model of the teacher's family,
with the teacher's switches, shows within seconds whether caching, padding and retained layers still hold.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_tc.modeling import GatedDeltaNet, HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.library_cache import NAMES_IN_LAYERS, cache_argument, cache_of
from hf_tc.modeling.plain_recurrence_inputs import heads
from hf_tc.modeling.recurrence_inputs import l2_normalise
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.small_teacher import random_teacher, shrink_config

LENGTH = 12
PREFILL = 8
PADDING = 5
# float32 logits of order 1; the largest difference seen over all reviewed families is 1e-5.
TOLERANCE = 1e-4


class TeacherParityError(RuntimeError):
    """A check of the self-check failed: this Transformers does not treat the family as hf_tc expects."""

    def __init__(self, model_type: str, check: str, difference: float | None, reason: str = "") -> None:
        self.check, self.difference = check, difference
        found = reason if difference is None else f"maximum difference {difference:.2e}"
        super().__init__(
            f"Parity self-check of {model_type!r} failed at {check!r}: {found} (transformers "
            f"{transformers.__version__}, torch {torch.__version__}). Nothing was converted. Try another Transformers "
            "release, and report this line."
        )


def parity_self_check(text_config: PreTrainedConfig) -> dict[str, float]:
    """Checks the family on CPU and returns the maximum difference of each check.

    Raises:
        TeacherParityError: a check failed, or could not be computed.
    """
    small = shrink_config(text_config)
    differences: dict[str, float] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _reported(text_config.model_type, "build"):
        teacher = random_teacher(small)
        types = HybridGDNConfig(text_config=copy.deepcopy(small)).teacher_layer_types
        same = build_student(teacher, types, share_weights=True)
        hybrid = build_student(teacher, ["linear_attention", *types[1:]], share_weights=True)
        recurrent = build_student(teacher, ["linear_attention"] * len(types), share_weights=True)
    ids = torch.randint(3, small.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    checks = {
        "no layer converted equals teacher": (lambda: zero_converted_difference(teacher, same, ids), 0.0),
        "recurrent layers read the teacher's q, k and v": (
            lambda: heads_difference(teacher, recurrent, ids),
            TOLERANCE,
        ),
        "prefill and decode equal full": (lambda: decode_difference(hybrid, ids), TOLERANCE),
        "left-padded equals single": (lambda: padding_difference(hybrid, ids), TOLERANCE),
    }
    for name, (measure, tolerance) in checks.items():
        with torch.no_grad(), _reported(text_config.model_type, name):
            difference = measure()
        if not difference <= tolerance:
            raise TeacherParityError(text_config.model_type, name, difference)
        differences[name] = difference
    return differences


@contextmanager
def _reported(model_type: str, check: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise TeacherParityError(model_type, check, None, f"{type(error).__name__}: {error}") from error


def zero_converted_difference(teacher: PreTrainedModel, student: HybridGDNForCausalLM, ids: torch.Tensor) -> float:
    """Largest difference of the logits of a student without recurrent layers from its teacher's; ids `[1, T]`."""
    return _largest(student(ids).logits, teacher(ids).logits)


def heads_difference(teacher: PreTrainedModel, student: HybridGDNForCausalLM, ids: torch.Tensor) -> float:
    """Largest difference of the directions of q and k, and of v, that teacher and recurrent layers make of one input.

    Norms, biases, clipping and rotation in another order, or left out, show here and in none of the other checks.
    Lengths of q and k are left out of account: recurrent layers normalise them.
    """
    seen = _attention_inputs(teacher, ids)
    mixers = [module for module in student.modules() if isinstance(module, GatedDeltaNet)]
    differences = []
    if any(len(inputs) < 5 for inputs in seen.values()):
        raise RuntimeError(
            "this attention bypasses Transformers' attention functions, so q, k and v cannot be compared"
        )
    for mixer in mixers:
        hidden_states, rotation, *expected = seen[mixer.layer_idx]
        actual = heads(mixer, mixer.project(hidden_states), rotation)
        for (x, y), unit in zip(
            zip(actual, expected, strict=True), (l2_normalise, l2_normalise, lambda v: v), strict=True
        ):
            y = y.transpose(1, 2)
            differences.append(_largest(unit(x), unit(y.repeat_interleave(x.shape[2] // y.shape[2], dim=2))))
    return max(differences)


def _attention_inputs(teacher: PreTrainedModel, ids: torch.Tensor) -> dict[int, list[Any]]:
    """For each layer: attention's input `[B, T, C]`, rotation, and the q, k, v `[B, H, T, K]` it attends with."""
    seen: dict[int, list[Any]] = {}

    def attend(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        seen[module.layer_idx] += [q, k, v]
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).transpose(1, 2).contiguous(), None

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[module.layer_idx] = [args[0] if args else kwargs["hidden_states"], kwargs.get("position_embeddings")]

    attentions = [find_attention(layer)[1] for layer in find_decoder_layers(teacher.base_model)]
    handles = [attention.register_forward_pre_hook(note, with_kwargs=True) for attention in attentions]
    usual = teacher.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS["hf_tc_parity"] = attend
    teacher.config._attn_implementation = "hf_tc_parity"
    try:
        teacher(ids, use_cache=False)
    finally:
        teacher.config._attn_implementation = usual
        del ALL_ATTENTION_FUNCTIONS["hf_tc_parity"]
        for handle in handles:
            handle.remove()
    return seen


def decode_difference(student: HybridGDNForCausalLM, ids: torch.Tensor, cache: Any = None) -> float:
    """Largest difference of the logits of prefill and token-by-token decoding from those of one forward.

    Raises:
        RuntimeError: the cache did not reach a layer. The difference alone is small where logits are scaled down.
    """
    full = student(ids, use_cache=False).logits
    output = student(ids[:, :PREFILL], use_cache=True, **cache_argument(cache))
    empty = [index for index, layer in enumerate(cache_of(output).layers) if int(layer.get_seq_length()) != PREFILL]
    if empty:
        raise RuntimeError(
            f"layers {empty} did not store {PREFILL} tokens in the cache; the family's decoder layers may hand it to "
            f"attention under a name other than {', '.join(NAMES_IN_LAYERS)}"
        )
    logits = [output.logits]
    for t in range(PREFILL, ids.shape[1]):
        output = student(ids[:, t : t + 1], use_cache=True, **cache_argument(cache_of(output)))
        logits.append(output.logits)
    return _largest(torch.cat(logits, dim=1), full)


def padding_difference(student: HybridGDNForCausalLM, ids: torch.Tensor) -> float:
    """Largest difference of a left-padded row, beside an unpadded one, from the same row alone."""
    filler = ids.flip(1)[:, :PADDING]
    batch = torch.cat([torch.cat([filler, ids], dim=1), torch.cat([ids, filler], dim=1)])
    mask = torch.ones_like(batch)
    mask[0, :PADDING] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = student(batch, attention_mask=mask, position_ids=positions).logits[:1, PADDING:]
    return _largest(padded, student(ids).logits)


def _largest(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return (actual - expected).abs().max().item()
