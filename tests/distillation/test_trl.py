# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students in TRL's own trainers: loss falls, gates train, and what is saved is a student. The page about it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from optional_packages import needs_extra
from student_folders import letter_tokenizer, tiny_report, tiny_student
from transformers import AutoModelForCausalLM

from hf_tc.assets import tiny_teacher_path
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.teachers.loading import load_causal_lm
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.vocabulary import tokenizer_of

PAGE = Path(__file__).parents[2] / ".docs" / "pages" / "trl.md"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content + '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
ANSWERED = [
    [{"role": "user", "content": f"What is {c}?"}, {"role": "assistant", "content": f"It is {c * n}."}]
    for n, c in enumerate("abcdefgh", start=1)
]
REFUSED = [{"role": "assistant", "content": "no"}]
ROWS = {
    "sft": [{"messages": messages} for messages in ANSWERED],
    "gkd": [{"messages": messages} for messages in ANSWERED],
    "dpo": [{"prompt": m[:1], "chosen": m[1:], "rejected": REFUSED} for m in ANSWERED],
    "on_policy": [{"prompt": messages[:1]} for messages in ANSWERED],
}
pytestmark = [
    needs_extra("trl", "trl", "datasets"),
    # TRL's own arguments, by names that Transformers has new ones for.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, student = tmp_path_factory.mktemp("student"), tiny_student()
    student.tokenizer, student.conversion_report = letter_tokenizer(), tiny_report()
    student.tokenizer.chat_template = CHAT_TEMPLATE
    student.save_pretrained(path)
    return path


def trainer_of(kind: str, model: Any, output: Path, **settings: Any) -> Any:
    """One of TRL's trainers on eight conversations; `settings` of its configuration, or a `peft_config`."""
    import trl
    from datasets import Dataset
    from trl.experimental import gkd

    trainers: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "sft": (trl.SFTTrainer, trl.SFTConfig, {"assistant_only_loss": True}),
        "dpo": (trl.DPOTrainer, trl.DPOConfig, {}),
        "on_policy": (trl.DistillationTrainer, trl.DistillationConfig, {"max_completion_length": 8}),
        "gkd": (gkd.GKDTrainer, gkd.GKDConfig, {"max_new_tokens": 8, "max_length": 128}),
    }
    trainer, config, own = trainers[kind]
    arguments = {
        "use_cpu": True,
        "bf16": False,
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
    }
    arguments |= {"report_to": "none", "logging_steps": 1, "disable_tqdm": True, "save_strategy": "no", **own}
    others = {"peft_config": settings.pop("peft_config", None)}
    if kind in ("on_policy", "gkd"):
        others["teacher_model"] = tiny_student(3)
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    rows = Dataset.from_list(ROWS[kind])
    args = config(str(output), **(arguments | settings))
    return trainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer, **others)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def of_recurrent_layers(student: Any) -> dict[str, Any]:
    mixers = [(name, module) for name, module in student.named_modules() if isinstance(module, GatedDeltaNet)]
    return {f"{name}.{key}": value for name, mixer in mixers for key, value in mixer.named_parameters()}


@pytest.mark.parametrize("kind", list(ROWS))
def test_a_student_trains_and_is_saved_as_one(kind: str, folder: Path, tmp_path: Path) -> None:
    student = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: weight.detach().clone() for name, weight in of_recurrent_layers(student).items()}
    trainer = trainer_of(kind, student, tmp_path)
    trainer.train()
    found = losses(trainer)
    assert min(found[-2:]) < 0.95 * found[0]
    after = of_recurrent_layers(trainer.model)
    assert len(before) == len(after) > 20
    assert not [name for name, weight in before.items() if weight.equal(after[name])]
    trainer.save_model()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is HybridGDNForCausalLM
    assert all(weight.equal(after[name]) for name, weight in of_recurrent_layers(again).items())


def test_what_forgets_is_not_decayed(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of("sft", str(folder), tmp_path, weight_decay=0.1)
    trainer.create_optimizer()
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    decayed, spared = ([names[id(p)] for p in group["params"]] for group in trainer.optimizer.param_groups)
    assert {name.split("self_attn.")[-1] for name in spared} >= {"A_log", "dt_bias", "a_proj.weight", "b_proj.weight"}
    assert "model.layers.1.self_attn.q_proj.weight" in decayed


def test_packed_conversations_do_not_see_each_other(folder: Path, tmp_path: Path) -> None:
    found = []
    for packing in (False, True):
        trainer = trainer_of("sft", str(folder), tmp_path, packing=packing, max_length=250, max_steps=1)
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["input_ids"].shape[0] == (1 if packing else 8)
        trainer.train()
        found += losses(trainer)
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_an_adapter_with_gates_trains_and_merges(kind: str, folder: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM, LoraConfig

    whole = ["a_proj", "b_proj", "short_conv"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", modules_to_save=whole)
    student = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: weight.detach().clone() for name, weight in of_recurrent_layers(student).items()}
    trainer = trainer_of(kind, student, tmp_path / "adapter", peft_config=lora)
    trainer.train()
    trainer.save_model()
    merged = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload()
    changed = {
        name.split(".self_attn.")[1] for name, w in of_recurrent_layers(merged).items() if not w.equal(before[name])
    }
    assert {"q_proj.weight", "a_proj.weight", "b_proj.weight", "b_proj.bias", "short_conv.weight"} <= changed
    assert not {"A_log", "dt_bias"} & changed
    merged.save_pretrained(tmp_path / "merged")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) is HybridGDNForCausalLM


def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = load_causal_lm(tiny_teacher_path())
    kinds = ["linear_attention", "full_attention"] * (teacher.config.num_hidden_layers // 2)
    student = build_student(teacher, kinds)
    student.tokenizer = tokenizer_of(tiny_teacher_path())
    student.save_pretrained("student")  # in place of the quickstart's
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    for saved in ("tuned", "merged", "preferred", "on_policy"):
        assert type(AutoModelForCausalLM.from_pretrained(saved)) is HybridGDNForCausalLM, saved
