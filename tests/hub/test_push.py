# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student that is pushed reaches the Hub and comes back unchanged."""

import shutil
from pathlib import Path

import pytest
import torch
from fake_hub import REPO, FakeHub
from safetensors.torch import load_file, save_file
from student_folders import assert_same_student, load_in_fresh_process, logits_of, run_python

import hf_tc
from hf_tc.report.records import HELD_OUT_FILE

PUSH_MODEL = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code={trust})
model.push_to_hub(sys.argv[2], private=True)
"""
PUSH_LORA = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from hf_tc import DistillationConfig, DistillationTrainer
folder, work, repo = sys.argv[1:]
student, teacher = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
ids = torch.arange(4, 16)
arguments = DistillationConfig(
    work, trains="lora", max_steps=2, learning_rate=1e-2, ce_weight=1, use_cpu=True, save_strategy="no", report_to=[]
)
trainer = DistillationTrainer(student, teacher, arguments, train_dataset=[{"input_ids": ids}] * 8)
trainer.train()
trained = trainer.model.eval()(ids[None]).logits
trainer.model.push_to_hub(repo + "-adapter")
trainer.model.merge_and_unload().push_to_hub(repo)
adapted = PeftModel.from_pretrained(teacher, repo + "-adapter").eval()
assert (adapted(ids[None]).logits - trained).abs().max() == 0
merged = AutoModelForCausalLM.from_pretrained(repo).eval()
torch.testing.assert_close(merged(ids[None]).logits, trained, rtol=0, atol=1e-4)
assert merged.config.calibration["distilled_steps"] == 2
"""
PUSH_FOLDER = "import sys; from hf_tc.hub.push import push_folder; push_folder(sys.argv[1], sys.argv[2])"


def test_pushed_folder_comes_back_unchanged(
    hub: FakeHub, saved: Path, student: hf_tc.HybridGDNForCausalLM, tmp_path: Path
) -> None:
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    folder = shutil.copytree(saved, tmp_path / "complete-student")
    (folder / HELD_OUT_FILE).write_text("[[1, 2]]")  # text, which is not to be published
    result = run_python(PUSH_FOLDER, folder, REPO, with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    received = hub.repos[REPO]
    assert HELD_OUT_FILE not in received
    (folder / HELD_OUT_FILE).unlink()
    for path in folder.iterdir():
        assert received[path.name] == path.read_bytes(), path.name
    card = received["README.md"].decode()
    assert f'model_id = "{REPO}"' in card
    assert f"\ntransformers serve {REPO} --trust-remote-code\n" in card
    assert "complete-student" not in card

    module, logits = load_in_fresh_process(REPO, tmp_path, with_hf_tc=False, **environment)
    assert module.startswith("transformers_modules.some_hyphen_user")
    torch.testing.assert_close(logits, logits_of(student), rtol=0, atol=0)


@pytest.mark.parametrize("with_hf_tc", [False, True])
def test_push_to_hub_of_a_loaded_student(hub: FakeHub, saved: Path, tmp_path: Path, with_hf_tc: bool) -> None:
    older_card = b"---\nlicense: mit\n---\nan older card"
    hub.repos[REPO] = {"README.md": older_card, "model-00001-of-00002.safetensors": b"old"}
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    code = PUSH_MODEL.format(trust=not with_hf_tc)
    result = run_python(code, saved, REPO, with_hf_tc=with_hf_tc, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    received = hub.repos[REPO]
    assert "model-00001-of-00002.safetensors" not in received
    card = received["README.md"].decode()
    assert "an older card" in card if not with_hf_tc else f'model_id = "{REPO}"' in card
    received.pop(".gitattributes", None)
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, content in received.items():
        (downloaded / name).write_bytes(content)
    assert_same_student(downloaded, saved)


def test_save_pretrained_can_push(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "A.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2], push_to_hub=True, repo_id=sys.argv[3],"
        " private=True, max_shard_size='20KB')"
    )
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    result = run_python(code, saved, tmp_path / "again", "some-student", with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    repo = "user/some-student"  # the owner of the token
    assert hub.private[repo]
    assert f'model_id = "{repo}"' in hub.repos[repo]["README.md"].decode()
    received = {name for name in hub.repos[repo] if name != ".gitattributes"}
    assert received == {path.name for path in (tmp_path / "again").iterdir()}


def test_weights_that_are_not_finite_are_not_uploaded(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(saved, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][1] = float("inf")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    for code in (PUSH_FOLDER, PUSH_MODEL.format(trust=False)):
        done = run_python(code, broken, REPO, with_hf_tc=True, **hub.environment, HF_HOME=str(tmp_path / "home"))
        assert done.returncode != 0
        assert "model.norm.weight in" in done.stderr
        assert "has values that are NaN or infinite" in done.stderr
    assert not any(name.endswith(".safetensors") for files in hub.repos.values() for name in files)


def test_push_without_a_valid_token_says_so(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_wrong"}
    result = run_python(PUSH_FOLDER, saved, REPO, with_hf_tc=True, **environment)
    assert result.returncode != 0
    assert "401" in result.stderr
    assert not hub.repos


def test_a_lora_student_is_pushed_as_an_adapter_and_merged(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    result = run_python(PUSH_LORA, saved, tmp_path / "work", REPO, with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= hub.repos[REPO + "-adapter"].keys()
    assert {"config.json", "model.safetensors", "modeling_hybrid_gdn.py"} <= hub.repos[REPO].keys()
    assert not any(name.startswith("adapter") for name in hub.repos[REPO])
