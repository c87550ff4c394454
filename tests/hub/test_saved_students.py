# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student's folder is complete, loads with and without hf_tc, and is the same however it is saved."""

import json
from pathlib import Path

import pytest
import torch
from optional_packages import NEEDS_A_NEWER_PEFT
from peft import LoraConfig
from student_folders import (
    assert_same_student,
    letter_tokenizer,
    load_in_fresh_process,
    logits_of,
    run_python,
    tiny_student,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import hf_tc
from hf_tc.hub.folder_checks import check_student_folder, weight_files
from hf_tc.modeling.saving import AUTO_MAP, MODELING_FILE, code_files
from hf_tc.report.records import ConversionReport

SAVE_UNDER_FSDP2 = """
import sys
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=0, world_size=1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
assert type(model).__name__ == "FSDPHybridGDNForCausalLM"
weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
model.save_pretrained(sys.argv[2], state_dict=weights)
dist.destroy_process_group()
"""


def test_every_file_of_the_modeling_package_is_code_of_a_student() -> None:
    package = Path(hf_tc.modeling.__file__).parent
    assert {path.name for path in code_files()} == {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert all(getattr(hf_tc.modeling, name.split(".")[1]).__name__ in name for name in AUTO_MAP.values())


def test_folder_is_complete(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", MODELING_FILE, "saving.py"} <= names
    assert {"README.md", "conversion_report.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert {"conversion_report.md", "calibration_log.csv", "plot_perplexity.png", "plot_errors.png"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["architectures"] == ["HybridGDNForCausalLM"]
    assert ConversionReport.load(saved).layers[1].timescale_tokens == 43.5
    assert GenerationConfig.from_pretrained(saved).temperature == 0.75
    text = "The sea was dark, and the lamp: out."
    assert AutoTokenizer.from_pretrained(saved).encode(text) == letter_tokenizer().encode(text)
    check_student_folder(saved)


def test_arguments_stand_in_the_librarys_order(student: hf_tc.HybridGDNForCausalLM, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path, True, None, False, "20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


@pytest.mark.parametrize("with_hf_tc", [False, True])
def test_folder_loads_in_a_fresh_process(
    student: hf_tc.HybridGDNForCausalLM, saved: Path, tmp_path: Path, with_hf_tc: bool
) -> None:
    module, logits = load_in_fresh_process(saved, tmp_path, with_hf_tc)
    assert module.startswith("hf_tc." if with_hf_tc else "transformers_modules.")
    torch.testing.assert_close(logits, logits_of(student), rtol=0, atol=0)


def test_without_hf_tc_and_without_trust_the_folder_is_refused(saved: Path) -> None:
    code = "import sys; from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[1])"
    result = run_python(code, saved, with_hf_tc=False)
    assert result.returncode != 0
    assert "trust_remote_code=True" in result.stderr


@pytest.mark.parametrize("with_hf_tc", [False, True])
def test_saving_a_loaded_student_again_keeps_its_code(saved: Path, tmp_path: Path, with_hf_tc: bool) -> None:
    again = tmp_path / "again"
    if with_hf_tc:
        AutoModelForCausalLM.from_pretrained(saved).save_pretrained(again)
    else:
        code = (
            "import sys; from transformers import AutoModelForCausalLM as A;"
            "A.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])"
        )
        result = run_python(code, saved, again, with_hf_tc=False)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_same_student(again, saved)


@pytest.mark.parametrize("with_hf_tc", [False, True])
def test_student_sharded_by_fsdp2_saves_the_same_folder(saved: Path, tmp_path: Path, with_hf_tc: bool) -> None:
    again = tmp_path / "again"
    result = run_python(SAVE_UNDER_FSDP2, saved, again, tmp_path / "store", with_hf_tc=with_hf_tc)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not list(again.glob("_fsdp*"))
    assert_same_student(again, saved)
    if with_hf_tc:  # which writes a card, by the gathered weights
        assert "1.5 times the teacher's perplexity" in (again / "README.md").read_text()


@NEEDS_A_NEWER_PEFT
def test_an_adapter_is_saved_without_its_model(tmp_path: Path) -> None:
    student = tiny_student()
    student.add_adapter(LoraConfig(target_modules=["q_proj"]))
    student.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not list(tmp_path.glob("*.py"))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(NotADirectoryError, match="taken is a file"):
        tiny_student().save_pretrained(tmp_path / "taken")


def test_sharded_student_loads_and_names_a_missing_shard(folder: Path) -> None:
    shards = weight_files(folder)
    assert len(shards) > 2
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits_of(loaded), logits_of(tiny_student()), rtol=0, atol=0)
    (folder / shards[1]).unlink()
    with pytest.raises(OSError, match=shards[1]):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("first", "second"), [("20KB", "5GB"), ("5GB", "20KB")])
def test_saving_over_another_student_leaves_none_of_its_weights(tmp_path: Path, first: str, second: str) -> None:
    tiny_student(seed=1).save_pretrained(tmp_path, max_shard_size=first)
    new = tiny_student(seed=2)
    new.save_pretrained(tmp_path, max_shard_size=second)
    torch.testing.assert_close(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), logits_of(new))
    held = {path.name for path in tmp_path.glob("*.safetensors")}
    assert held == set(weight_files(tmp_path))


def test_config_changes_travel(tmp_path: Path) -> None:
    student = tiny_student()
    student.config.calibration = {"teacher": "some-org/some-teacher", "seed": 3}
    student.bfloat16().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.calibration == {"teacher": "some-org/some-teacher", "seed": 3}
    assert "some-org/some-teacher" in (tmp_path / "README.md").read_text()
