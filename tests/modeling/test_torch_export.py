# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""torch.export takes a whole forward, and what it gives computes the same."""

import pytest
import torch
from tiny_models import pad_rows, student, token_ids
from torch.export import Dim

ALL = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("family", "linear", "strict"),
    [("llama", (0, 2), False), ("mistral", (1,), False), ("qwen2", ALL, False), ("llama", (0, 2), True)],
)
def test_a_forward_of_fixed_shape(family: str, linear: tuple[int, ...], strict: bool) -> None:
    model, ids = student(family, linear), token_ids(2, 12)
    with torch.no_grad():
        program = torch.export.export(model, (), {"input_ids": ids, "use_cache": False}, strict=strict)
        other = token_ids(2, 12, seed=4)
        found = program.module()(input_ids=other, use_cache=False).logits
        torch.testing.assert_close(found, model(other).logits, rtol=0, atol=2e-4)


def test_a_forward_of_other_shapes_with_padding() -> None:
    """The loop over the chunks of the delta rule, of 64 tokens, is part of the program: it fixes how many there are."""
    model, axes = student("qwen2", (0, 2)), {0: Dim.AUTO, 1: Dim.AUTO}
    model.config.use_cache = False
    ids, mask = pad_rows([token_ids(12), token_ids(8)], [0, 4], 12)
    longer, its_mask = pad_rows([token_ids(40), token_ids(20), token_ids(3)], [0, 10, 37], 40)
    too_long = token_ids(2, 65)
    with torch.no_grad():
        shapes = {"input_ids": axes, "attention_mask": axes}
        program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask}, dynamic_shapes=shapes)
        found = program.module()(input_ids=longer, attention_mask=its_mask).logits
        expected = model(longer, attention_mask=its_mask).logits
        torch.testing.assert_close(found[its_mask.bool()], expected[its_mask.bool()], rtol=0, atol=2e-4)
        with pytest.raises(AssertionError, match="Guard failed"):
            program.module()(input_ids=too_long, attention_mask=torch.ones_like(too_long))
