# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student and its export give the same logits and tokens; what cannot be mapped is refused before weights load."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from student_folders import letter_tokenizer
from tiny_models import student, student_config, token_ids
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_tc.cli.main import main
from hf_tc.config import MixerConfig
from hf_tc.export.checks import attention_interval, check_exportable
from hf_tc.export.export import export_student, exported_model
from hf_tc.export.gguf import CONVERTER, VARIABLE
from hf_tc.modeling import HybridGDNForCausalLM

QWEN3_5 = MixerConfig("qwen3_5").fields(AutoConfig.for_model("qwen3"))
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 1e4}
NO_WINDOW = {"use_sliding_window": False}
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3, biases, tied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, one K/V head, 2 taps": ("qwen3", {"num_key_value_heads": 1, "conv_kernel_size": 2}),
    "qwen2": ("qwen2", NO_WINDOW),
    "llama, llama3 RoPE, tied": ("llama", {}),
    "llama, yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    "llama, biases": ("llama", {"attention_bias": True, "rope_parameters": DEFAULT_ROPE}),
}


def exportable(kind: str = "qwen3", linear: tuple[int, ...] = (0, 1, 2)) -> HybridGDNForCausalLM:
    family, changes = TEACHERS[kind]
    return student(family, linear, **{**QWEN3_5, **changes})


@torch.no_grad()
@pytest.mark.parametrize("kind", TEACHERS)
def test_logits_and_greedy_tokens_are_the_students(kind: str, tmp_path: Path) -> None:
    model = exportable(kind)
    export_student(model, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(loaded).__name__ == "Qwen3_5ForCausalLM"
    for length in (1, 5, 70):
        ids = token_ids(2, length)
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    options = dict(max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert torch.equal(loaded.generate(token_ids(1, 9), **options), model.generate(token_ids(1, 9), **options))


@torch.no_grad()
@pytest.mark.parametrize("linear", [(), (1,), (0, 3)])
def test_any_choice_of_layers_can_be_mapped(linear: tuple[int, ...]) -> None:
    model, ids = exportable("qwen3", linear), token_ids(1, 30)
    torch.testing.assert_close(exported_model(model)(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_every_nth_layer_is_an_interval() -> None:
    intervals = {(0, 1, 2): 4, (0, 2): 2, (): 1, (0, 1): None, (0, 3): None, (0, 1, 2, 3): None}
    for linear, interval in intervals.items():
        assert attention_interval(student_config("qwen3", linear)) == interval


@pytest.mark.parametrize("format", ["qwen3_5", "mlx"])
def test_what_is_written_says_what_it_is(format: str, tmp_path: Path) -> None:
    model = exportable("qwen3, biases, tied")
    assert export_student(model, tmp_path / "out", format) == tmp_path / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    text = config["text_config"] if format == "mlx" else config
    assert config["model_type"] == {"mlx": "qwen3_5", "qwen3_5": "qwen3_5_text"}[format]
    assert config["tie_word_embeddings"]
    assert text["layer_types"] == model.config.layer_types
    assert (text["full_attention_interval"], text["linear_num_key_heads"], text["linear_num_value_heads"]) == (4, 4, 4)
    assert text["rope_parameters"]["partial_rotary_factor"] == 1.0
    assert sum(text["rope_parameters"]["mrope_section"]) == text["head_dim"] // 2
    assert (tmp_path / "out" / "generation_config.json").exists()


def test_norms_stay_in_float32_and_all_else_in_the_students_dtype(tmp_path: Path) -> None:
    """In bfloat16, 0.1 - 1 is 2 % off 0.1 once 1 is added again."""
    model = exportable().bfloat16()
    export_student(model, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118, not a dict
    of_norms = {dtype for name, dtype in dtypes.items() if "norm" in name and "linear_attn" not in name}
    assert of_norms == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "proj" in name} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_tokenizer_and_chat_template_go_along(tmp_path: Path) -> None:
    model = exportable()
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    model.tokenizer = tokenizer
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    export_student(tmp_path / "student", tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == tokenizer.chat_template
    assert again("abc")["input_ids"] == tokenizer("abc")["input_ids"]


RETAINED_FIRST = ("qwen3", {**QWEN3_5}, (1, 2, 3))
REFUSED: dict[str, tuple[tuple[str, dict[str, Any], tuple[int, ...]], str, str]] = {
    "default form": (("qwen3", {}, (0, 1, 2)), "qwen3_5", r"have recurrent_rope True, .*--mixer-form qwen3_5"),
    "family": (("mistral", QWEN3_5, (0, 1, 2)), "qwen3_5", "family mistral; layers of llama, qwen2, qwen3"),
    "window": (("qwen2", QWEN3_5, (0, 1)), "qwen3_5", r"layers \[2, 3\] attend within a sliding window"),
    "no attention": (("qwen3", QWEN3_5, (0, 1, 2, 3)), "qwen3_5", "none of its layers keeps attention"),
    "activation": (("llama", {**QWEN3_5, "hidden_act": "gelu"}, (0, 1, 2)), "qwen3_5", "activation 'gelu', not 'silu'"),
    "biases": (("llama", {**QWEN3_5, "mlp_bias": True}, (0, 1, 2)), "qwen3_5", "MLP has biases"),
    "epsilon": (("qwen3", {**QWEN3_5, "rms_norm_eps": 1e-5}, (0, 1, 2)), "qwen3_5", "have output_norm_eps 1e-06"),
    "layout": (RETAINED_FIRST, "mlx", r"layers \[0\] keep attention; MLX wants every n-th one.*--retained-layers 3"),
    "rope of mlx": (("llama", {**QWEN3_5, **TEACHERS["llama, yarn"][1]}, (0, 1, 2)), "mlx", "RoPE is of type 'yarn'"),
    "output bias": (
        ("qwen3", {**QWEN3_5, "attention_bias": True}, (0, 1, 2)),
        "gguf",
        "output projection has a bias, which llama.cpp does not read",
    ),
    "rope of gguf": (("llama", QWEN3_5, (0, 1, 2)), "gguf", "RoPE is of type 'llama3'; there it is default"),
    "format": (("qwen3", QWEN3_5, (0, 1, 2)), "onnx", "format is 'onnx'; it must be one of qwen3_5, mlx, gguf"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_mapped_is_refused(reason: str) -> None:
    (family, changes, linear), format, message = REFUSED[reason]
    if reason == "window":
        changes = {**changes, "use_sliding_window": True, "max_window_layers": 2}
    with pytest.raises(ValueError, match=message):
        check_exportable(student_config(family, linear, **changes), format)


def test_float16_is_refused_where_small_projections_would_underflow() -> None:
    for family in ("llama", "qwen3"):
        config = student_config(family, (0, 1, 2), **QWEN3_5)
        config.dtype = torch.float16
        with pytest.raises(ValueError, match="underflows in float16") if family == "llama" else nullcontext():
            check_exportable(config)


def test_it_is_refused_before_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student("qwen3").save_pretrained(tmp_path / "student")
    exportable().save_pretrained(tmp_path / "form")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").touch()
    AutoConfig.for_model("qwen3").save_pretrained(tmp_path / "teacher")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(HybridGDNForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    for source, out, options, message in (
        ("student", "out", {}, "--mixer-form qwen3_5"),
        ("teacher", "out", {}, "model of type 'qwen3', not a student"),
        ("form", "occupied", {}, "exists and is not empty"),
        ("form", "out", {"format": "gguf"}, "ends in .gguf"),
        ("form", "out.gguf", {"format": "gguf"}, "git clone .*llama.cpp"),
        ("form", "out.gguf", {"format": "gguf", "llama_cpp": tmp_path}, "convert_hf_to_gguf.py does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            export_student(tmp_path / source, tmp_path / out, **options)


def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exportable().save_pretrained(tmp_path / "student")
    assert main(["export", str(tmp_path / "student"), str(tmp_path / "out"), "--format", "mlx"]) == 0
    assert "Exported for mlx-lm" in capfd.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert main(["export", str(tmp_path / "student"), str(tmp_path / "out")]) == 2
    assert "exists and is not empty" in capfd.readouterr().err


def test_converter_of_llama_cpp_is_run_on_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that writes down what it was given."""
    (tmp_path / CONVERTER).write_text(
        "import json, pathlib, sys\n"
        "assert (pathlib.Path(sys.argv[1]) / 'model.safetensors').exists()\n"
        "pathlib.Path(sys.argv[3]).write_text(json.dumps(sys.argv[4:]))\n"
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    export_student(exportable("qwen2"), tmp_path / "out.gguf", "gguf")
    assert json.loads((tmp_path / "out.gguf").read_text()) == ["--outtype", "f32", "--no-nextn"]
    (tmp_path / CONVERTER).write_text("raise SystemExit('no such tokenizer')")
    with pytest.raises(RuntimeError, match="converter failed: no such tokenizer"):
        export_student(exportable(), tmp_path / "again.gguf", "gguf")
    assert not (tmp_path / "again.gguf").exists()
