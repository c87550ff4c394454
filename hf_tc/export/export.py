# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student as a checkpoint that engines know without hf_tc: what `hf-tc export` does."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import CONFIG_NAME

from hf_tc.export.checks import check_exportable
from hf_tc.export.gguf import converter_command, run_converter
from hf_tc.export.qwen3_5_config import exported_config, nested
from hf_tc.export.qwen3_5_weights import exported_weights
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.resume.unfinished_work import check_not_occupied, check_writable

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")


def export_student(
    student: HybridGDNForCausalLM | str | Path,
    out: str | Path,
    format: str = "qwen3_5",
    *,
    llama_cpp: str | Path | None = None,
) -> Path:
    """Writes a student of the form `qwen3_5` as a checkpoint of that architecture.

    Args:
        student: the student, its folder or its Hub id.
        out: folder of the checkpoint; with "gguf" the file, which ends in .gguf.
        format: "qwen3_5" for Transformers, vLLM and whatever else reads `Qwen3_5ForCausalLM`; "mlx" for mlx-lm, the
            same nested in a `qwen3_5`; "gguf" for llama.cpp, by its own converter.
        llama_cpp: the folder of llama.cpp or the converter in it, see `converter_command`.

    Returns:
        `out`.

    Raises:
        ValueError: the student cannot be mapped, the converter was not found, or `out` is occupied; found out before
            weights are loaded.
        RuntimeError: llama.cpp's converter failed.
    """
    out = Path(out)
    check_exportable(student.config if isinstance(student, HybridGDNForCausalLM) else _config_of(student), format)
    _check_out(out, format)
    command = converter_command(llama_cpp) if format == "gguf" else []
    if not isinstance(student, HybridGDNForCausalLM):
        student = _loaded(student)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.unfinished.") as folder:
        written = Path(folder) / "checkpoint"
        _save(student, written, format)
        if format == "gguf":
            written = run_converter(command, written, Path(folder) / out.name, student.dtype)
        elif out.exists():
            out.rmdir()
        shutil.move(written, out)
    return out


@torch.no_grad()
def exported_model(student: HybridGDNForCausalLM) -> PreTrainedModel:
    """The student as a `Qwen3_5ForCausalLM` in memory, in evaluation mode; weights that need no change are shared."""
    weights = exported_weights(student.state_dict(), student.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(exported_config(student.config))
    found = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    left = {name for name, tensor in model.state_dict().items() if tensor.is_meta}
    if found.unexpected_keys or left:
        raise RuntimeError(
            f"The student and this release's Qwen3_5ForCausalLM differ: it lacks {found.unexpected_keys}, the student "
            f"{sorted(left)}. Report this line."
        )
    _restore_buffers(model)
    model.generation_config = student.generation_config
    return model.eval()


def _restore_buffers(model: PreTrainedModel) -> None:
    """Rotary frequencies, which are not saved, computed again in place of those on the meta device."""
    rotary = model.base_model.rotary_emb
    model.base_model.rotary_emb = type(rotary)(model.config)


def _save(student: HybridGDNForCausalLM, folder: Path, format: str) -> None:
    model = exported_model(student)
    weights = model.state_dict()
    if format == "gguf":  # llama.cpp has no place for this bias, which is there for Qwen2's sake alone, and 0
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith("self_attn.o_proj.bias")}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer = getattr(student, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if format == "mlx":
        path = folder / CONFIG_NAME
        config = nested(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check_out(out: Path, format: str) -> None:
    if format != "gguf":
        check_not_occupied(out)
    elif out.suffix != ".gguf" or out.exists():
        raise ValueError(f"{out} is to be a GGUF file: give a name that ends in .gguf and does not exist.")
    check_writable(out.parent if format == "gguf" else out)


def _config_of(student: str | Path) -> HybridGDNConfig:
    kind = HybridGDNConfig.get_config_dict(student)[0].get("model_type")
    if kind != HybridGDNConfig.model_type:
        raise ValueError(
            f"{student} is a model of type {kind!r}, not a student of hf_tc. Convert it first: hf-tc convert {student} "
            "--out STUDENT --mixer-form qwen3_5"
        )
    return HybridGDNConfig.from_pretrained(student)


def _loaded(student: str | Path) -> HybridGDNForCausalLM:
    """A student in the dtype of its weights, with its tokenizer where it has one."""
    loaded = HybridGDNForCausalLM.from_pretrained(student, dtype="auto")
    if not Path(student).is_dir() or any((Path(student) / name).exists() for name in TOKENIZER_FILES):
        loaded.tokenizer = AutoTokenizer.from_pretrained(student)
    return loaded
