# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Write gate: the bias gives exactly the wanted beta, in the real mixer, whatever its input."""

import torch
from planted import captured_layer, fresh_mixer, plant_memory, random_blocks, tiny_teacher

from hf_tc.calibration.write_gate import BETA_CANDIDATES, write_gate_bias_of


def test_mixer_writes_with_the_beta_whatever_its_input() -> None:
    beta = torch.tensor([0.03, 0.25, 0.5, 0.9])
    teacher = tiny_teacher()
    mixer = plant_memory(fresh_mixer(teacher), torch.full((4,), 5.0), beta)
    x = captured_layer(teacher, random_blocks(2, 20)).attn_input
    torch.testing.assert_close(mixer.beta(x), beta.expand(2, 20, 4), rtol=1e-6, atol=0)
    torch.testing.assert_close(mixer.beta(50 * x).mean((0, 1)), beta, rtol=1e-6, atol=0)


def test_bias_is_the_inverse_of_the_sigmoid() -> None:
    beta = torch.tensor([1e-4, 0.5, 0.9999])
    torch.testing.assert_close(write_gate_bias_of(beta).sigmoid(), beta.double())
    assert write_gate_bias_of(torch.tensor(0.5)).item() == 0


def test_candidates_are_write_gates() -> None:
    assert all(0 < beta < 1 for beta in BETA_CANDIDATES)
    assert list(BETA_CANDIDATES) == sorted(set(BETA_CANDIDATES))
