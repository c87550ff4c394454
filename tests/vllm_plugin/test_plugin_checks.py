# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM cannot serve is refused in one line that says the value, the rule and the way out."""

from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fresh_processes import run_code
from tiny_models import student, student_config

from hf_tc.config import MixerConfig
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.vllm_plugin.checks import check_engine, check_student
from hf_tc.vllm_plugin.families import SERVED_FAMILIES, MixerForm, mixer_form, served_architectures, why_not_served

TESTED = "0.32.0"


def engine(config: Any, folder: str = "USER/NAME", dtype: str = "torch.bfloat16", **changes: Any) -> SimpleNamespace:
    """As much of vLLM's configuration as is checked. `changes`: of the parallel configuration."""
    parallel = {"tensor_parallel_size": 1, "decode_context_parallel_size": 1, "prefill_context_parallel_size": 1}
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config, model=folder, dtype=dtype),
        parallel_config=SimpleNamespace(**{**parallel, **changes}),
        speculative_config=None,
    )


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.33.0.dev4+g1234", "1.0"])
def test_another_vllm_than_was_tested_is_refused(version: str) -> None:
    with pytest.raises(
        ValueError, match=rf"This is vLLM {version.replace('+', '.')}; .* pip install 'vllm<0.33,>=0.32'"
    ):
        check_student(student_config("qwen3"), version)


@pytest.mark.parametrize("version", [TESTED, "0.32.1", "0.32.0+cpu"])
def test_what_was_tested_is_served(version: str) -> None:
    check_student(student_config("qwen3"), version)
    check_engine(engine(student_config("qwen3"), tensor_parallel_size=2), is_gpu=True)


def test_a_family_without_a_class_there_is_refused() -> None:
    config = student_config("cohere", head_dim=8)
    with pytest.raises(
        ValueError, match=r"this student's teacher is of 'cohere'. Serve it by Transformers: hf-tc serve"
    ):
        check_student(config, TESTED)


def test_a_form_that_it_cannot_serve_is_refused() -> None:
    assert "conv_kernel_size is 0" in str(why_not_served(student_config("qwen3", conv_kernel_size=0)))
    config = student_config("qwen3")
    config.conv_activation = "gelu"
    assert "conv_activation 'gelu'" in str(why_not_served(config))


def test_form_is_read_from_the_configuration() -> None:
    assert mixer_form(student_config("llama")) == MixerForm(4, None, True, True, True, None, True)
    config = student_config("llama", conv_kernel_size=3, recurrent_rope=False, output_norm=True)
    assert mixer_form(config)[:3] == (3, None, False)
    assert mixer_form(config).output_norm_eps == 1e-5
    exportable = MixerConfig("qwen3_5").fields(config.text_config)
    served = student_config("llama", **exportable)
    assert mixer_form(served) == MixerForm(4, "silu", False, False, False, exportable["output_norm_eps"], False)
    assert why_not_served(served) is None


@pytest.mark.parametrize("ranks", [3, 4])  # of 4 query heads and 2 key/value heads
def test_ranks_that_do_not_divide_the_heads_are_refused(ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"--tensor-parallel-size {ranks} does not divide 4 .* and 2 .*Use 2 or"):
        check_engine(engine(student_config("qwen3"), tensor_parallel_size=ranks), is_gpu=False)


def test_context_parallelism_and_speculation_are_refused() -> None:
    config = student_config("qwen3")
    with pytest.raises(ValueError, match="cannot divide a recurrent state"):
        check_engine(engine(config, decode_context_parallel_size=2), is_gpu=True)
    speculating = engine(config)
    speculating.speculative_config = object()
    with pytest.raises(ValueError, match="cannot take a token back"):
        check_engine(speculating, is_gpu=True)


def test_what_kernels_for_gpus_do_not_take_is_refused_there() -> None:
    config = student_config("qwen3", conv_kernel_size=5)
    with pytest.raises(ValueError, match=r"conv_kernel_size is 5; .* take 4 at most"):
        check_engine(engine(config), is_gpu=True)
    check_engine(engine(config), is_gpu=False)
    with pytest.raises(ValueError, match=r"do not take torch.float32\. Use --dtype bfloat16"):
        check_engine(engine(student_config("qwen3"), dtype="torch.float32"), is_gpu=True)


def test_half_downloaded_folder_is_refused(tmp_path: Path) -> None:
    model = student("qwen3")
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    whole = engine(model.config, str(tmp_path))
    check_engine(whole, is_gpu=False)
    last = max(tmp_path.glob("*.safetensors"))
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{last.name} is missing or damaged"):
        check_engine(whole, is_gpu=False)
    last.unlink()
    with pytest.raises(ValueError, match=rf"{last.name} is missing or damaged"):
        check_engine(whole, is_gpu=False)


def test_served_families_are_reviewed_and_have_one_name_each() -> None:
    assert set(SERVED_FAMILIES) <= set(REVIEWED_FAMILIES)
    assert len(served_architectures()) == len(SERVED_FAMILIES)
    assert served_architectures()["HybridGDNQwen3ForCausalLM"] == "Qwen3ForCausalLM"


def test_vllm_finds_the_plugin_and_hf_tc_imports_nothing_of_vllm() -> None:
    (plugin,) = (point for point in entry_points(group="vllm.general_plugins") if point.name == "hf_tc")
    assert plugin.value == "hf_tc.vllm_plugin.plugin:register"
    code = (
        "import sys, hf_tc, hf_tc.vllm_plugin.plugin, hf_tc.vllm_plugin.checks, hf_tc.vllm_plugin.torch_core;"
        "assert not any(name.split('.')[0] == 'vllm' for name in sys.modules)"
    )
    assert run_code(code).returncode == 0
