# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What hf_tc offers at its top level."""

import inspect

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import hf_tc

NAMES = ["DistillationConfig", "DistillationTrainer", "HybridGDNConfig", "HybridGDNForCausalLM", "HybridGDNModel"]


def test_names() -> None:
    assert sorted(hf_tc.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name: str) -> None:
    documentation = getattr(hf_tc, name).__dict__.get("__doc__")
    assert documentation
    assert len(inspect.cleandoc(documentation)) > 20


def test_importing_registers_the_student() -> None:
    config = AutoConfig.for_model("hybrid_gdn")
    assert type(config) is hf_tc.HybridGDNConfig
    assert AutoModel._model_mapping[type(config)] is hf_tc.HybridGDNModel
    assert AutoModelForCausalLM._model_mapping[type(config)] is hf_tc.HybridGDNForCausalLM
