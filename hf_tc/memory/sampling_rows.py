# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many rows of text a model samples at once: as many as fit, since a step takes hardly longer for more of them."""

import inspect

from transformers import PreTrainedModel

from hf_tc.memory.estimate import FLOAT32, attention_map_bytes, free_bytes, widths_of
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, head_shape
from hf_tc.teachers.offloading import execution_device

MOST_ROWS = 512  # more lengthen a step as much as they add
ROWS_ON_CPU = 32
USED_OF_FREE = 0.8  # the rest is for what the allocator keeps of what was freed


def row_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of a row of so many tokens: keys and values of all layers; what its first pass makes of a layer, as in
    `memory.estimate`, and a T x T mask, as booleans, as numbers and as attention wants them; the logits of one token,
    or of all where the model cannot leave them out, three times in float32."""
    itemsize = model.dtype.itemsize
    widths = widths_of(model, 0, itemsize)
    shapes = [head_shape(find_attention(layer)[1], model.config) for layer in find_decoder_layers(model.base_model)]
    cached = sum(2 * kv_heads * head_dim for _, kv_heads, head_dim in shapes)
    per_token = itemsize * (cached + 2 * widths.hidden + 3 * widths.widest)
    with_logits = 1 if "logits_to_keep" in inspect.signature(model.forward).parameters else tokens
    logits = (itemsize + 3 * FLOAT32) * widths.vocabulary * with_logits
    masks = (1 + 2 * itemsize) * tokens**2
    return tokens * per_token + masks + logits + attention_map_bytes(widths, tokens, tokens)


def rows_at_once(model: PreTrainedModel, tokens: int) -> int:
    """Rows of so many tokens that fit into the free memory of the model's device, one at least."""
    free = free_bytes(execution_device(model))
    if free is None:
        return ROWS_ON_CPU
    return max(1, min(MOST_ROWS, int(USED_OF_FREE * free) // row_bytes(model, tokens)))
