# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The model card shows what the report holds and nothing else."""

import math
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub
from huggingface_hub import ModelCard
from student_folders import run_python, save_student, tiny_report, tiny_student

import hf_tc
from hf_tc.hub.folder_checks import check_student_folder
from hf_tc.hub.model_card import render_card


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


LICENCES: dict[str, tuple[str | None, list[str | None]]] = {  # card of the teacher; licence, name and link
    "apache": ("license: apache-2.0", ["apache-2.0", None, None]),
    "file": (
        "license: other\nlicense_name: own\nlicense_link: TERMS",
        ["other", "own", "some-org/file/resolve/main/TERMS"],
    ),
    "page": ("license: other\nlicense_name: own\nlicense_link: https://a.org/b", ["other", "own", "https://a.org/b"]),
    "silent": ("language: en", [None, None, None]),
    "absent": (None, [None, None, None]),
}
CARDS = """
import sys
from pathlib import Path
from transformers import AutoConfig
from hf_tc.hub.model_card import render_card
for name in sys.argv[3:] * 2:
    card = render_card(AutoConfig.from_pretrained(sys.argv[1]), {"teacher": f"some-org/{name}"}, "some/model")
    Path(sys.argv[2], name).write_text(card)
"""


def test_card_takes_the_licence_of_a_teacher_on_the_hub(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    for name, (metadata, _) in LICENCES.items():
        if metadata is not None:
            hub.repos[f"some-org/{name}"] = {"README.md": f"---\n{metadata}\n---\n# A teacher\n".encode()}
    result = run_python(CARDS, saved, tmp_path, *LICENCES, with_hf_tc=True, **hub.environment)
    assert result.returncode == 0, result.stderr[-3000:]
    for name, (_, terms) in LICENCES.items():
        card = ModelCard.load(tmp_path / name)
        link = (card.data.license_link or "").removeprefix(f"{hub.endpoint}/") or None
        assert [card.data.license, card.data.license_name, link] == terms, name
        assert ("see the teacher's license" in card.text) == (terms[0] is None), name
    assert sorted(hub.requests) == sorted(f"GET api/models/some-org/{name}" for name in LICENCES)  # each asked for once


def test_a_hub_out_of_reach_costs_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("hf_tc.hub.model_card.model_info", fails)
    card = ModelCard(render_card(tiny_student().config, {"teacher": "some-org/another"}, "some/model"))
    assert card.data.license is None
    assert card.data.base_model == "some-org/another"
    assert "terms of use: see the teacher's license." in card.text


def test_command_that_serves_names_the_model_whatever_the_folder_is_called() -> None:
    text = render_card(tiny_student().config, {}, "my student")
    assert "\ntransformers serve 'my student' --trust-remote-code\n" in text


def test_card_of_the_demo_is_what_the_template_makes() -> None:
    demo = (Path(__file__).parents[2] / "model_cards" / "demo_student" / "README.md").read_text()
    card = render_card(tiny_student().config, {}, "demo_student")
    for start, end in (("## Usage", "## What was converted"), ("## Limits", "@end")):
        shown, expected = (f"{text.strip()}@end".split(start)[1].split(end)[0] for text in (demo, card))
        assert shown == expected


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
