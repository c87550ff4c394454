# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whatever became of a student and however it was saved, its card has figures of its weights or none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from fake_hub import FakeHub
from peft import LoraConfig, get_peft_model
from student_folders import letter_tokenizer, run_python, save_student, tiny_report, tiny_student
from tiny_causal_lms import labelled_examples
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from hf_tc.config import TRAINS
from hf_tc.distillation import DistillationConfig, DistillationTrainer
from hf_tc.evaluation.figures import Evaluation
from hf_tc.hub.folder_checks import check_card
from hf_tc.hub.model_card import TRAINED_BY
from hf_tc.hub.push import push_folder
from hf_tc.report.records import ConversionReport

FIGURES = "1.5 times the teacher's perplexity: 30.00 against 20.00"
CHANGED = "Since then the student was trained further or changed in another way. This card has no figures of it"
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def assert_has_figures(folder: Path) -> None:
    assert FIGURES in card_of(folder)
    assert "(plot_errors.png)" in card_of(folder)
    assert (folder / "plot_errors.png").is_file()
    assert "from before" not in (folder / "conversion_report.md").read_text(encoding="utf-8")


def assert_has_none(folder: Path, told: str = CHANGED) -> None:
    card = card_of(folder)
    assert told in card
    assert "2 of the 4 attention layers of `some-org/some-teacher` became Gated DeltaNet" in card
    for absent in ("times the teacher's", "| layer |", "plot_errors", "lost the most"):
        assert absent not in card
    page = (folder / "conversion_report.md").read_text(encoding="utf-8")
    assert FIGURES in page
    assert "The figures here are from before." in page
    assert ConversionReport.load(folder).perplexity == tiny_report().perplexity
    assert (folder / "plot_errors.png").is_file()


def nudge(student: Any) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_a_loaded_student_keeps_its_figures_in_every_dtype_and_shard(
    saved: Path, tmp_path: Path, dtype: torch.dtype, size: str
) -> None:
    student = load(saved, dtype=dtype)
    assert student.conversion_report.layers[1].timescale_tokens == 43.5
    student.save_pretrained(tmp_path / "again", max_shard_size=size)
    assert_has_figures(tmp_path / "again")
    load(tmp_path / "again", dtype=torch.float32).save_pretrained(tmp_path / "back")
    assert_has_figures(tmp_path / "back")


def test_a_state_dict_is_judged_and_not_the_model(saved: Path, tmp_path: Path) -> None:
    student = load(saved)
    weights = {name: value * 1.01 for name, value in student.state_dict().items()}
    student.save_pretrained(tmp_path / "other", state_dict=weights)
    assert_has_none(tmp_path / "other")
    student.save_pretrained(tmp_path / "same")
    assert_has_figures(tmp_path / "same")


def test_a_save_over_the_same_folder_renews_its_card(tmp_path: Path) -> None:
    save_student(tiny_student(), tmp_path, letter_tokenizer(), tiny_report())
    assert_has_figures(tmp_path)
    student = load(tmp_path)
    nudge(student)
    student.save_pretrained(tmp_path)
    assert_has_none(tmp_path)


def test_a_report_of_which_it_is_not_known_whose_it_is_gives_no_figures(tmp_path: Path) -> None:
    student = tiny_student()
    student.conversion_report = tiny_report()  # as saved before reports knew their weights
    student.save_pretrained(tmp_path)
    told = "It was not recorded whether the weights are still those that the conversion gave it."
    assert_has_none(tmp_path, told)


def test_an_evaluation_is_shown_of_its_own_weights_alone(saved: Path, tmp_path: Path) -> None:
    student, row = load(saved), "| perplexity | 20.00 | 25.00 | 1.250 x |"
    nudge(student)  # as training does
    student.conversion_report.add_evaluation(Evaluation(25.0, 1000, 0.25, 0.9, 20.0), student, "books.txt")
    student.save_pretrained(tmp_path / "measured")
    card, page = card_of(tmp_path / "measured"), tmp_path / "measured" / "conversion_report.md"
    assert "changed in another way. The figures here under Evaluation are of it; those of the conversion" in card
    assert FIGURES not in card
    assert row in card
    assert "The figures here are from before, but for those under Evaluation." in page.read_text(encoding="utf-8")
    check_card(tmp_path / "measured")
    load(tmp_path / "measured", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    assert row in card_of(tmp_path / "half")
    student = load(tmp_path / "measured")
    nudge(student)
    student.save_pretrained(tmp_path / "later")
    assert_has_none(tmp_path / "later")
    for name in ("README.md", "conversion_report.md"):
        assert row not in (tmp_path / "later" / name).read_text(encoding="utf-8")
    assert ConversionReport.load(tmp_path / "later").evaluation is not None
    check_card(tmp_path / "later")
    Accelerator(cpu=True).save_model(tiny_student(seed=1), tmp_path / "measured")  # the weights and nothing else
    with pytest.raises(ValueError, match=r"README\.md has figures of other weights than are beside it"):
        check_card(tmp_path / "measured")


def test_another_students_report_does_not_stay(tmp_path: Path) -> None:
    save_student(tiny_student(), tmp_path, report=tiny_report())
    tiny_student(seed=1).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("conversion_report*")) + list(tmp_path.glob("plot_*"))
    assert "some-teacher" not in card_of(tmp_path)


def test_trainer_saves_report_and_a_card_that_tells_of_training(saved: Path, tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path / "work"), learning_rate=1e-4, **QUIET)
    trainer = Trainer(load(saved), arguments, train_dataset=labelled_examples(16))
    trainer.save_model(str(tmp_path / "before"))
    assert_has_figures(tmp_path / "before")
    trainer.train()
    trainer.save_model(str(tmp_path / "after"))
    assert_has_none(tmp_path / "after")
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(tmp_path / "unwrapped")
    assert_has_none(tmp_path / "unwrapped")


def test_distillation_tells_its_tokens_and_steps_and_adds_up(saved: Path, tmp_path: Path) -> None:
    student, examples = load(saved), labelled_examples(16)
    tokens = 0
    for run, steps in enumerate((2, 4), start=1):
        arguments = DistillationConfig(
            str(tmp_path / "work"), per_device_train_batch_size=4, **{**QUIET, "max_steps": 2, "seed": run}
        )
        trainer = DistillationTrainer(student, tiny_student(), arguments, train_dataset=examples)
        trainer.train()
        tokens += trainer.state.num_input_tokens_seen
        trainer.save_model(str(tmp_path / str(run)))
        told = f"Then the student was distilled on {tokens:,} tokens in {steps} steps. This card has no figures of it"
        assert_has_none(tmp_path / str(run), told)
        student = load(tmp_path / str(run))
    assert tokens == 2 * 2 * 4 * 12  # two runs of two batches of four examples


def test_a_merged_adapter_is_another_student(saved: Path, tmp_path: Path) -> None:
    adapted = get_peft_model(load(saved), LoraConfig(target_modules=["q_proj"], init_lora_weights=True))
    adapted.merge_and_unload().save_pretrained(tmp_path / "zero")  # a fresh adapter changes nothing
    assert_has_figures(tmp_path / "zero")
    adapted = get_peft_model(load(saved), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert_has_none(tmp_path / "merged")


def test_a_damaged_report_does_not_keep_a_student_from_loading(tmp_path: Path) -> None:
    save_student(tiny_student(), tmp_path, report=tiny_report())
    (tmp_path / "conversion_report.json").write_text('{"teacher": "x", "layers": 3')
    result = run_python(
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "assert A.from_pretrained(sys.argv[1]).conversion_report is None",
        tmp_path,
        with_hf_tc=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"{tmp_path / 'conversion_report.json'} cannot be read (JSONDecodeError: " in result.stderr
    with pytest.raises(ValueError, match=r"conversion_report\.json cannot be read .*\. Remove it"):
        push_folder(tmp_path, "some-user/some-student")


def test_without_hf_tc_whoever_saves_over_a_card_is_told(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("figures of other weights")
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "A.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])"
    )
    result = run_python(code, saved, tmp_path, with_hf_tc=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count("no model card was written") == 1


def test_figures_of_weights_that_were_replaced_are_not_pushed(tmp_path: Path) -> None:
    save_student(tiny_student(), tmp_path, letter_tokenizer(), tiny_report())
    check_card(tmp_path)
    Accelerator(cpu=True).save_model(tiny_student(seed=1), tmp_path)  # the weights and nothing else
    with pytest.raises(ValueError, match=r"README\.md has figures of other weights than are beside it"):
        push_folder(tmp_path, "some-user/some-student")
    load(tmp_path).save_pretrained(tmp_path)
    assert_has_none(tmp_path)
    check_card(tmp_path)


def test_a_report_comes_from_the_hub_too_and_need_not_be_there(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    hub.repos["a/with-report"] = files
    hub.repos["a/without"] = {name: data for name, data in files.items() if not name.startswith("conversion_report")}
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "student = A.from_pretrained('a/with-report'); student.save_pretrained(sys.argv[1]);"
        "assert student.conversion_report.seed == 7;"
        "assert A.from_pretrained('a/without').conversion_report is None"
    )
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    result = run_python(code, tmp_path / "again", with_hf_tc=True, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_has_figures(tmp_path / "again")


KEPT = "Embeddings, MLPs, norms and the language-model head are the teacher's."
AS_TEACHER, FROM_TEACHER = (
    "| softmax attention, as in the teacher |",
    "| softmax attention, which came from the teacher |",
)
ALL_PARTS = "Embeddings, MLPs, norms, the language-model head and the softmax attention came from the teacher and"


@pytest.mark.parametrize(
    ("trains", "attention", "told"),
    [
        ("mixers", AS_TEACHER, KEPT),
        (
            "mixers_and_norms",
            AS_TEACHER,
            "Embeddings, MLPs and the language-model head are the teacher's. Norms came from the teacher and were "
            "trained since.",
        ),
        (
            "attention_too",
            FROM_TEACHER,
            "Embeddings, MLPs and the language-model head are the teacher's. Norms and the softmax attention came from "
            "the teacher and were trained since.",
        ),
        ("all", FROM_TEACHER, f"{ALL_PARTS} were trained since."),
    ],
)
def test_a_card_says_of_the_teachers_parts_what_was_trained(
    saved: Path, tmp_path: Path, trains: str, attention: str, told: str
) -> None:
    assert KEPT in card_of(saved)
    assert AS_TEACHER in card_of(saved)
    arguments = DistillationConfig(str(tmp_path / "work"), trains=trains, learning_rate=1e-3, **QUIET)
    trainer = DistillationTrainer(load(saved), tiny_student(), arguments, train_dataset=labelled_examples(16))
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    card = card_of(tmp_path / "trained")
    assert f"\n{told}\n" in card
    assert attention in card
    student = load(tmp_path / "trained")
    nudge(student)  # by whom, and what of it, is not known
    student.save_pretrained(tmp_path / "later")
    card = card_of(tmp_path / "later")
    assert f"\n{ALL_PARTS} may have changed since.\n" in card
    assert FROM_TEACHER in card


def test_a_card_knows_every_preset() -> None:
    assert tuple(TRAINED_BY) == TRAINS
