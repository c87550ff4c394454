# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student's folder is complete, loads with and without hf_tc, and reaches a Hub and comes back unchanged."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub
from hf_tc.modeling.saving import AUTO_MAP, MODELING_FILE, code_files
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from student_folders import letter_tokenizer, load_in_fresh_process, logits_of, run_python, tiny_report, tiny_student
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import hf_tc
from hf_tc.hub import check_student_folder, push_folder, render_card, save_student, weight_files
from hf_tc.report import ConversionReport

REPO = "some-user/some-student"
PUSH_MODEL = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code={trust})
model.push_to_hub(sys.argv[2], private=True)
"""
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
PUSH_FOLDER = "import sys; from hf_tc.hub import push_folder; push_folder(sys.argv[1], sys.argv[2])"


@pytest.fixture(scope="module")
def student() -> hf_tc.HybridGDNForCausalLM:
    return tiny_student()


@pytest.fixture(scope="module")
def saved(student: hf_tc.HybridGDNForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder, which no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "complete-student"
    save_student(student, folder, letter_tokenizer(), tiny_report())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder in several shards, for tests that damage it."""
    save_student(tiny_student(), tmp_path / "student", max_shard_size="20KB")
    return tmp_path / "student"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


def assert_same_student(folder: Path, expected: Path) -> None:
    """Same code, weights and configuration, and so the same student."""
    check_student_folder(folder)
    for source in code_files():
        assert (folder / source.name).read_bytes() == source.read_bytes() == (expected / source.name).read_bytes()
    config, expected_config = (json.loads((path / "config.json").read_text()) for path in (folder, expected))
    for loaded in (config, expected_config):
        loaded["text_config"].pop("dtype", None)  # loading sets it
    assert config == expected_config
    weights, expected_weights = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())


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


# The model card.


def test_card_shows_the_real_figures_and_no_others(saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "some-org/some-teacher"
    assert card.data.pipeline_tag == "text-generation"
    assert {"hf_tc", "gated-deltanet"} <= set(card.data.tags)
    assert card.data.license is None
    text = card.text
    row = "| 2 | 31 | 43.5 | 0.321 | 0.987 | 0.543 | 1.5 |"
    for shown in (row, "| closed form | 30.00 | 1.50 |", "65,536", "torch 2.13.0", "(plot_errors.png)"):
        assert shown in text
    for unknown in ("aligned |", "| nan", "None", "{{"):
        assert unknown not in text
    usage = text.split("```python\n")[1].split("```")[0].strip().splitlines()
    assert len(usage) == 6
    assert 'model_id = "complete-student"' in usage


def test_card_without_a_report_invents_nothing() -> None:
    text = render_card(tiny_student().config, {}, "some/model", ["my-tag"])
    assert "my-tag" in ModelCard(text).data.tags
    assert "base_model" not in text
    for section in ("## Layer by layer", "## Perplexity", "## How to make it again"):
        assert section not in text
    assert "| Gated DeltaNet | 1, 2 |" in text


def test_card_takes_the_licence_of_a_local_teacher_and_hides_its_path(tmp_path: Path) -> None:
    teacher = tmp_path / "private-place" / "my-teacher"
    teacher.mkdir(parents=True)
    (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A teacher\n")
    text = render_card(tiny_student().config, {"teacher": str(teacher)}, "some/model")
    assert ModelCard(text).data.license == "apache-2.0"
    assert "my-teacher" in text
    assert "private-place" not in text


def test_figures_of_the_card_follow_the_report(tmp_path: Path) -> None:
    student = tiny_student()
    save_student(student, tmp_path, report=tiny_report())
    report = tiny_report()
    report.layers[0].error_aligned = 0.125
    report.perplexity["aligned"] = math.pi
    save_student(student, tmp_path, report=report)
    text = (tmp_path / "README.md").read_text()
    assert "| 1 | 31 | 42.5 | 0.321 | 0.987 | 0.543 | 0.125 | 1.5 |" in text
    assert "| aligned | 3.14 | 0.16 |" in text


def test_card_in_the_folder_survives_a_save_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my own words")
    tiny_student().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"


def test_a_classifier_gets_code_but_no_card_of_a_language_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = hf_tc.modeling.HybridGDNForSequenceClassification(tiny_student().config)
    classifier.save_pretrained(tmp_path)
    check_student_folder(tmp_path)
    assert not (tmp_path / "README.md").exists()


# Pushing.


def test_pushed_folder_comes_back_unchanged(
    hub: FakeHub, saved: Path, student: hf_tc.HybridGDNForCausalLM, tmp_path: Path
) -> None:
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    folder = shutil.copytree(saved, tmp_path / "complete-student")
    result = run_python(PUSH_FOLDER, folder, REPO, with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    received = hub.repos[REPO]
    for path in folder.iterdir():
        assert received[path.name] == path.read_bytes(), path.name
    assert f'model_id = "{REPO}"' in received["README.md"].decode()

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


def test_push_without_a_valid_token_says_so(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_wrong"}
    result = run_python(PUSH_FOLDER, saved, REPO, with_hf_tc=True, **environment)
    assert result.returncode != 0
    assert "401" in result.stderr
    assert not hub.repos


# Folders that are refused, before anything is sent.


def test_a_missing_shard_is_refused(folder: Path) -> None:
    shard = weight_files(folder)[0]
    (folder / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard} is missing or damaged"):
        push_folder(folder, REPO)


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    shard = folder / weight_files(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="missing or damaged"):
        push_folder(folder, REPO)


def test_folders_that_are_no_complete_student_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        check_student_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no config\.json"):
        check_student_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, which may be pickled"):
        check_student_folder(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "cache.py").unlink()
    with pytest.raises(ValueError, match=r"lacks the code files cache\.py"):
        check_student_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    for changed, message in (({"auto_map": None}, "no auto_map"), ({"model_type": "llama"}, "of type 'llama'")):
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(ValueError, match=message):
            check_student_folder(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    with pytest.raises(ValueError, match="no weights"):
        check_student_folder(folder)
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    check_student_folder(folder)
