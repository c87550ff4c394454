# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Any cache of the library becomes a student's: made by `generate`, by the user, static, quantised or offloaded."""

from typing import Any

import transformers
from packaging.version import Version
from transformers.cache_utils import Cache, CacheLayerMixin, StaticLayer

from .cache import GDNCacheLayer

# Before, one stream fetched offloaded keys while another still wrote them: wrong tokens, for plain Llamas too.
OFFLOADING_IS_SAFE = Version(transformers.__version__) >= Version("5.20.0.dev0")


def adopt_cache(cache: Cache, linear_layers: tuple[int, ...], num_layers: int) -> None:
    """Gives a cache made from the teacher's configuration, or from none, recurrent layers where the student has them.

    Raises:
        ValueError: an attention layer with tokens in it stands where the student is recurrent: another model's cache.
            An offloaded cache of a Transformers release whose offloading gives wrong tokens.
    """
    if getattr(cache, "offloading", False) and not OFFLOADING_IS_SAFE:
        raise ValueError(
            f"Offloaded caches of Transformers {transformers.__version__} give wrong tokens now and then: their copies "
            "race. Use Transformers 5.20 or later, or leave the offloading out."
        )
    replicated = getattr(cache, "layer_class_to_replicate", None)
    while len(cache.layers) < num_layers and replicated is not None:
        cache.layers.append(replicated())
    missing = [index for index in linear_layers if not isinstance(cache.layers[index], GDNCacheLayer)]
    if not missing:  # as in every forward but the first
        return
    # Not the layer's own: a sliding one holds its window only, and ours answers for the attention over everything.
    capacities = [layer.max_cache_len for layer in cache.layers if isinstance(layer, StaticLayer)]
    recording = is_recording(cache)
    for index in missing:
        layer = cache.layers[index]
        if _holds_tokens(layer):
            raise ValueError(
                f"The cache holds attention keys in layer {index}, which is recurrent in this student: it is the "
                "cache of the teacher or of another student, or PEFT's prefix tuning, which puts keys into every layer "
                "and so cannot adapt a hybrid. Start from an empty cache; instead of prefix tuning, use LoRA or prompt "
                "tuning."
            )
        recurrent = GDNCacheLayer(max(capacities) if isinstance(layer, StaticLayer) else None)
        cache.layers[index] = recurrent
        if recording:
            recurrent.activate_past_recording()
    if getattr(cache, "offloading", False):
        _show_what_is_offloaded(cache)


def _show_what_is_offloaded(cache: Cache) -> None:
    """Tells each recurrent layer of an offloading cache which layer, in a circle, is the next to be fetched."""
    count = len(cache.layers)
    offloaded = {
        index: layer
        for index, (layer, is_sliding) in enumerate(zip(cache.layers, cache.is_sliding, strict=True))
        if isinstance(layer, CacheLayerMixin)
        and not isinstance(layer, GDNCacheLayer)
        and not (is_sliding and cache.only_non_sliding)
    }
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, GDNCacheLayer):
            circle = (other % count for other in range(index + 1, index + count))
            layer.next_offloaded = next((offloaded[other] for other in circle if other in offloaded), None)


def is_recording(cache: Cache) -> bool:
    """Whether a cache keeps what a rollback needs, see `Cache.activate_past_recording`."""
    return bool(_recording_layers(cache))


def end_recording(cache: Cache) -> None:
    """Drops what was kept for a rollback, and keeps no more of it: the opposite of `activate_past_recording`."""
    for layer in _recording_layers(cache):
        layer.crop(0)
        layer.record_past = False


def _recording_layers(cache: Cache) -> list[Any]:
    """Recurrent ones and sliding ones, whose classes have nothing typed in common."""
    return [layer for layer in cache.layers if getattr(layer, "record_past", False)]


def _holds_tokens(layer: Any) -> bool:
    if any(getattr(layer, "has_previous_state", {}).values()):
        return True
    return getattr(layer, "is_initialized", False) and bool(layer.get_seq_length() > 0)
