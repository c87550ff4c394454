# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The weight of first tokens' own values, from outputs that a known one made."""

from dataclasses import replace

import pytest
import torch
from planted import planted_mixer

from hf_tc.calibration.first_token import solve_first_token_weight, weight_of
from hf_tc.modeling.masks import RecurrentMask


def test_a_planted_weight_is_found_from_few_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    projection, gated = (torch.randn(*shape, generator=generator) for shape in ((12, 8), (5, 8)))
    wanted = torch.randn(8, generator=generator)
    found = weight_of(projection, gated, (gated * wanted) @ projection.T)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
@torch.no_grad()
def test_a_layer_gets_back_what_its_first_tokens_lack(family: str) -> None:
    """GPT-NeoX' projections have biases and its RoPE turns a part of each head."""
    changes = {"num_key_value_heads": 4} if family == "gpt_neox" else {}
    mixer, captured = planted_mixer(family, first_token_value=True, **changes)
    wanted = torch.rand(mixer.first_token_weight.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    mixer.first_token_weight.copy_(wanted)
    target, _ = mixer(captured.attn_input, captured.position_embeddings, recurrent_mask=RecurrentMask())
    mixer.first_token_weight.zero_()
    captured = replace(captured, teacher_output=target)
    mixer.first_token_weight.copy_(solve_first_token_weight(mixer, captured)["first_token_weight"])
    output, _ = mixer(captured.attn_input, captured.position_embeddings, recurrent_mask=RecurrentMask())
    assert (output - target)[:, 0].norm() < 0.05 * target[:, 0].norm()
    assert torch.equal(output[:, 1:], target[:, 1:])
