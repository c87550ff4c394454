# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Plans against what they plan: built students, filled caches, counted memory; and what they refuse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import QUICK, equal_states, letter_teacher, state_of, teacher_folder, text_file
from fake_hub import FakeHub
from family_checks import family_config
from live_bytes import LiveBytes
from planted import SIZES, random_blocks, tiny_teacher
from rich.console import Console
from student_folders import letter_tokenizer
from transformers import AutoConfig, BertConfig, Gemma3Config, PreTrainedConfig, T5Config

from hf_tc import cli
from hf_tc.alignment import AlignmentSettings
from hf_tc.cache_size import CacheSizes, KeyValueShape
from hf_tc.calibration.corrupted_text import number_of_windows
from hf_tc.conversion_memory import EXPECTED_WITHIN, streamed_tokens, text_bytes_in_host_memory
from hf_tc.conversion_plan import ConversionPlan, plan_conversion
from hf_tc.conversion_plan_table import duration, plan_table, size
from hf_tc.conversion_settings import ConversionSettings, joint_settings
from hf_tc.conversion_time import Speed, measure_speed
from hf_tc.convert import from_teacher
from hf_tc.convert_layers import Conversion
from hf_tc.families import REVIEWED_FAMILIES
from hf_tc.family_parity import random_teacher, shrink_config
from hf_tc.teachers import UnreviewedTeacherError, build_student

SOME_FAMILIES = ["gemma3_text", "gpt_neox", "gpt_oss", "llama", "mistral", "phi3", "qwen2", "qwen3_moe"]
QWEN3_8B = {
    "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "dtype": "bfloat16",
}  # fmt: skip


def small_config(family: str) -> PreTrainedConfig:
    return shrink_config(family_config(family), layers=2)


def layer_types(plan: ConversionPlan, config: PreTrainedConfig) -> list[str]:
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"] * 2
    return ["linear_attention" if index in plan.linear_layers else kind for index, kind in enumerate(kinds)]


# Counted


@pytest.mark.parametrize("family", [*SOME_FAMILIES, "cohere2", "olmoe", "phi", "smollm3"])
def test_parameters_are_those_of_a_built_student(family: str) -> None:
    config = small_config(family)
    plan = plan_conversion(config, retained_layers=[1])
    teacher = random_teacher(config)
    student = build_student(teacher, layer_types(plan, config))
    assert plan.teacher_parameters == sum(parameter.numel() for parameter in teacher.parameters())
    assert plan.student_parameters == sum(parameter.numel() for parameter in student.parameters())
    assert plan.added_parameters > 0
    assert (plan.retained_layers, plan.linear_layers) == ((1,), (0,))


def cached_bytes(cache: Any) -> int:
    tensors = []
    for layer in cache.layers:
        states = (getattr(layer, "recurrent_states", None) or {}), (getattr(layer, "conv_states", None) or {})
        tensors += [layer.keys, layer.values, *states[0].values(), *states[1].values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_cache_bytes_are_those_of_a_filled_cache(family: str, dtype: torch.dtype) -> None:
    config = small_config(family)
    plan = plan_conversion(config, retained_layers=[1], dtype=dtype)
    teacher = random_teacher(config).to(dtype)
    student = build_student(teacher, layer_types(plan, config))
    for tokens in (3, 5, 6, 23):  # the window is 6 in families that have one
        ids = torch.randint(3, 90, (1, tokens))
        assert plan.cache.teacher(tokens) == cached_bytes(teacher(ids, use_cache=True).past_key_values)
        assert plan.cache.student(tokens) == cached_bytes(student(ids, use_cache=True).past_key_values)


def test_weights_on_disk_are_the_counted_bytes(tmp_path: Path) -> None:
    teacher = letter_teacher(tie_word_embeddings=True)
    plan = plan_conversion(teacher.config)
    build_student(teacher, layer_types(plan, teacher.config)).save_pretrained(tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert 0 <= written - plan.student_bytes < 20_000  # the file's header


def sizes_of(*windows: int | None, retained: tuple[int, ...], state: int) -> CacheSizes:
    return CacheSizes(tuple(KeyValueShape(2, 4, window) for window in windows), retained, 2, state)


def test_break_even_is_the_first_context_with_a_smaller_cache() -> None:
    # 2 x 2 x 4 values of 2 bytes are 32 bytes a token and layer.
    assert sizes_of(None, None, retained=(0,), state=32 * 100).break_even_tokens == 101
    assert sizes_of(None, None, retained=(0,), state=32 * 100 - 1).break_even_tokens == 100
    assert sizes_of(None, 11, retained=(0,), state=32 * 10).break_even_tokens is None
    assert sizes_of(None, 11, retained=(0,), state=32 * 10 - 1).break_even_tokens == 10
    assert sizes_of(None, retained=(0,), state=0).break_even_tokens is None
    assert sizes_of(None, 11, None, retained=(1, 2), state=7).growth == (2 * 32_000, 32_000)


def test_a_policy_that_measures_says_how_many_layers_and_what_it_costs() -> None:
    speed = Speed(float32=1e9, teacher=1e9, rule=1e-5)
    config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8})
    uniform = plan_conversion(config, retained_layers=0.25, layer_policy="uniform")
    assert uniform.selection_forwards == 0
    for policy, forwards in (("bypass", 8), ("kl", 8), ("greedy", 8 + 7 + 6 + 5 + 4 + 3 + 2)):
        plan = plan_conversion(config, retained_layers=0.25, layer_policy=policy)
        assert (plan.policy, len(plan.retained_layers), plan.selection_forwards) == (policy, 2, forwards)
        assert plan.student_parameters == uniform.student_parameters
        assert sum(plan.seconds(speed).values()) > sum(uniform.seconds(speed).values())
    # All 8 layers are solved to select, none of the 6 again to convert.
    solved = uniform.seconds(speed)["closed_form"] / 6
    greedy = plan_conversion(config, retained_layers=0.25, layer_policy="kl").seconds(speed)
    assert greedy["closed_form"] == 0
    assert greedy["selection"] > 8 * solved


# Estimated


@pytest.mark.parametrize(
    ("hidden", "heads", "kv_heads", "head_dim", "length", "layers", "joint_steps"),
    [(128, 4, 1, 32, 128, 3, 0), (128, 2, 2, 64, 512, 6, 0), (64, 2, 2, 32, 256, 6, 1)],
)
def test_peak_memory_is_expected_within_the_stated_factor(
    hidden: int, heads: int, kv_heads: int, head_dim: int, length: int, layers: int, joint_steps: int, tmp_path: Path
) -> None:
    teacher = tiny_teacher(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        intermediate_size=2 * hidden, num_hidden_layers=layers, max_position_embeddings=length,
    )  # fmt: skip
    settings = ConversionSettings(1024, length, alignment=AlignmentSettings(steps=1), joint=joint_settings(joint_steps))
    plan = plan_conversion(teacher.config, retained_layers=[0, *range(2, layers - 1)], settings=settings)
    blocks = random_blocks(1024 // length, length)
    with LiveBytes() as live:
        Conversion(teacher, blocks, plan.retained_layers, settings, tmp_path, share_weights=True).run()
    measured, expected = plan.teacher_bytes + live.peak, plan.memory(None).host
    assert expected / EXPECTED_WITHIN < measured < expected * EXPECTED_WITHIN, (expected, measured)


def test_memory_of_a_gpu_that_is_too_small_goes_to_the_host() -> None:
    plan = plan_conversion(AutoConfig.for_model("qwen3", **QWEN3_8B))
    roomy, narrow = plan.memory(80 * 10**9), plan.memory(28 * 10**9)
    assert roomy.host == 0
    assert not roomy.text_in_host_memory
    assert narrow.text_in_host_memory
    assert streamed_tokens(plan.settings) == 65_536 + 1024 * number_of_windows(60, 1024)  # of 64 blocks, 4 held out
    assert streamed_tokens(plan.settings.closed_form_alone()) == 65_536
    assert narrow.host == text_bytes_in_host_memory(plan.widths, streamed_tokens(plan.settings))
    assert roomy.device == plan.memory(None).host
    offloaded = plan.memory(40 * 10**9, weights_fit=False)
    assert offloaded.host == plan.teacher_bytes + 2 * sum(plan.mixer_parameters)
    assert offloaded.device < roomy.device
    longer = replace(plan, settings=replace(plan.settings, sequence_length=8192))
    assert longer.memory(None).host < 1.1 * roomy.device


def test_time_grows_with_what_there_is_to_do() -> None:
    speed = Speed(float32=1e9, teacher=2e9, rule=1e-5)

    def seconds(steps: int = 10, tokens: int = 32_768, **options: Any) -> dict[str, float]:
        settings = ConversionSettings(calibration_tokens=tokens, alignment=AlignmentSettings(steps=steps))
        config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8})
        return plan_conversion(config, settings=settings, **{"retained_layers": [0, 4], **options}).seconds(speed)

    base = seconds()
    assert all(value > 0 for value in base.values())
    assert seconds(steps=20)["alignment"] == pytest.approx(2 * base["alignment"])
    assert seconds(steps=20)["closed_form"] == base["closed_form"]
    assert seconds(retained_layers=[])["closed_form"] == pytest.approx(base["closed_form"] * 8 / 6)
    assert seconds(0, tokens=65_536)["teacher"] == pytest.approx(2 * seconds(0)["teacher"])


def test_speed_is_measured_on_the_device() -> None:
    plan = plan_conversion(AutoConfig.for_model("llama", **SIZES))
    speed = measure_speed(plan.widths, torch.bfloat16, torch.device("cpu"), tokens=64)
    assert min(speed.float32, speed.teacher, speed.rule) > 0


def test_activations_in_host_memory_give_the_same_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_file(tmp_path / "text.txt")
    ordinary = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=text, **QUICK)
    monkeypatch.setattr("hf_tc.convert_layers.fits_on", lambda device, needed: False)
    student = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=text, **QUICK)
    assert equal_states(state_of(student), state_of(ordinary))


# Where configurations come from, and what is refused


def test_a_folder_a_file_and_a_config_give_the_same_plan_without_weights(tmp_path: Path) -> None:
    config = AutoConfig.for_model("qwen3", **QWEN3_8B)
    config.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
    plans = [plan_conversion(source) for source in (tmp_path, tmp_path / "config.json", config)]
    assert plans[0].student_parameters == plans[1].student_parameters == plans[2].student_parameters > 8e9
    assert plans[0].dtype == torch.bfloat16


def test_of_a_hub_id_the_configuration_alone_is_fetched(tmp_path: Path) -> None:
    teacher_folder(tmp_path / "teacher")
    files = {path.name: path.read_bytes() for path in (tmp_path / "teacher").iterdir()}
    assert "model.safetensors" in files
    with FakeHub() as hub:
        hub.repos["some-org/teacher"] = files
        environment = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "100"}
        command = [sys.executable, "-m", "hf_tc.cli", "convert", "some-org/teacher", "--dry-run"]
        command += ["--layer-policy", "uniform"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        fetched = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert done.returncode == 0, done.stderr
    assert "1 of 3 keep attention: 0 (uniform); 2 become recurrent" in done.stderr
    assert "config.json" in fetched
    assert not any(name.endswith((".safetensors", ".index.json", ".bin")) for name in fetched)


TINY_TEXT = {name: value for name, value in SIZES.items() if name != "head_dim"}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
REFUSED = {
    "refused family": (AutoConfig.for_model("stablelm", **TINY_TEXT), "keyword arguments"),
    "encoder-decoder": (T5Config(), "T5"),
    "encoder": (BertConfig(), "bert"),
    "multimodal": (
        Gemma3Config(text_config=SIZES, vision_config={**VISION, "image_size": 28, "patch_size": 14}),
        "Gemma3ForCausalLM",
    ),
    "quantised": (AutoConfig.for_model("llama", **SIZES, quantization_config={"quant_method": "gptq"}), "quantised"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_conversion_refuses_is_refused(kind: str) -> None:
    config, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        plan_conversion(config)


def test_an_unreviewed_family_is_planned_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(REVIEWED_FAMILIES, "llama")
    config = AutoConfig.for_model("llama", **SIZES)
    with pytest.raises(UnreviewedTeacherError):
        plan_conversion(config)
    assert plan_conversion(config, allow_unreviewed=True).carried is None


@pytest.mark.parametrize("options", [{"retained_layers": [3]}, {"retained_layers": 1.5}, {"layer_policy": "best"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"contains 3|\[0, 1\]|must be one of"):
        plan_conversion(AutoConfig.for_model("llama", **SIZES), **options)


def test_8_bit_teachers_are_planned() -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    config = AutoConfig.for_model("llama", **SIZES, quantization_config=quantised)
    assert (
        plan_conversion(config).teacher_parameters
        == plan_conversion(AutoConfig.for_model("llama", **SIZES)).teacher_parameters
    )


# The table


def test_the_table_says_it_all(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = AutoConfig.for_model("mistral", **{**SIZES, "sliding_window": 64, "num_hidden_layers": 8})
    config.save_pretrained(tmp_path)
    plan = plan_conversion(tmp_path, layer_policy="greedy")
    console = Console(width=120, record=True)
    console.print(plan_table(plan, torch.device("cpu")))
    shown = console.export_text()
    assert f"{plan.teacher_parameters:,} -> {plan.student_parameters:,}" in shown
    for words in ("window not carried", "2 of 8 keep attention: chosen by greedy", "35 forward passes", "host memory"):
        assert words in shown


def test_dry_run_needs_no_folder_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AutoConfig.for_model("llama", **SIZES).to_dict()))
    assert cli.main(["convert", str(tmp_path / "config.json"), "--dry-run", "--retained-layers", "0,2"]) == 0
    assert "2 of 3 keep attention" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path)]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_units() -> None:
    assert [size(count) for count in (999, 1000, 2_500_000, 3 * 10**13)] == ["999 B", "1.00 kB", "2.50 MB", "30.00 TB"]
    assert [duration(seconds) for seconds in (0.2, 60, 600, 7200)] == ["1 s", "60 s", "10 min", "2.0 h"]
