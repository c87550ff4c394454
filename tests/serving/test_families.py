# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student of each family that the plugin serves, over HTTP: the tokens and log probabilities of `generate`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_models import teacher_config, token_ids
from vllm_server import CROWDED, EAGER, expected_answer, save_tiny_student, serving

from hf_tc.config import MixerConfig
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.vllm_plugin.families import SERVED_FAMILIES

pytest.importorskip("vllm")
pytestmark = pytest.mark.serving

LENGTHS = (1, 2, 7, 63, 64, 65, 128, 200)
TOKENS = 12
GRANITE = {"attention_multiplier": 0.3, "logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
CHANGES = {
    # In vLLM some know no other head size than this, and no window in some layers only.
    "ernie4_5": {"hidden_size": 128},
    "granite": {**GRANITE, "hidden_size": 128},
    "qwen2": {"hidden_size": 128, "use_sliding_window": False},
    "qwen2_moe": {**EXPERTS, "hidden_size": 128, "shared_expert_intermediate_size": 32},
    "gemma2": {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0},
}


@pytest.mark.parametrize("family", SERVED_FAMILIES)
def test_prompts_of_all_lengths_at_once_get_generates_tokens(family: str, tmp_path: Path) -> None:
    check_answers(save_tiny_student(family, tmp_path / "student", **CHANGES.get(family, {})), tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])  # attention has biases in one, norms of q and k in the other
def test_exportable_form_gets_generates_tokens(family: str, tmp_path: Path) -> None:
    form = MixerConfig("qwen3_5").fields(teacher_config(family))
    check_answers(save_tiny_student(family, tmp_path / "student", **CHANGES.get(family, {}), **form), tmp_path)


def check_answers(student: HybridGDNForCausalLM, scratch: Path) -> None:
    """Holds the server of scratch/student, which reads all prompts at once, against the student itself."""
    prompts = [token_ids(length, seed=length).tolist() for length in LENGTHS]
    served = serving(scratch / "student", scratch, *CROWDED, *EAGER)
    with served as server, ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: server.complete(prompt, TOKENS), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = expected_answer(student, prompt, TOKENS)
        assert answer.tokens == expected.tokens, len(prompt)
        assert answer.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)
