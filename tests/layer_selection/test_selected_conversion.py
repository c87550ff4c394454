# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Conversions that choose their layers: nothing is calibrated twice, and the student is that of the list chosen."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from command_lines import CALIBRATION, unparsed
from conversion_inputs import QUICK, equal_states, letter_teacher, state_of, teacher_folder, text_file
from student_folders import letter_tokenizer
from transformers import AutoModelForCausalLM

from hf_tc import convert as conversion
from hf_tc.cli.main import main
from hf_tc.conversion import fit_layer
from hf_tc.convert import select_layers
from hf_tc.layer_selection import probe
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.report.records import ConversionReport
from hf_tc.selection import LayerSelection

Chosen = Callable[[str], HybridGDNForCausalLM]
# They ask for the teacher without a layer, with one converted, and with all but some, also on second copies; the others
# for nothing else.
POLICIES = ["bypass", "kl", "recall"]
SELECTION = {name: value for name, value in QUICK.items() if name != "alignment_steps"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


def convert(text: Path, folder: Path | None = None, **options: Any) -> HybridGDNForCausalLM:
    return HybridGDNForCausalLM.from_teacher(
        letter_teacher(), letter_tokenizer(), calibration_data=text, checkpoint_dir=folder, **{**QUICK, **options}
    )


@pytest.fixture(scope="module")
def chosen(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HybridGDNForCausalLM]:
    """The student that keeps attention in the one of three layers that a policy chose; no test changes it."""
    return cache(
        lambda policy: convert(text, tmp_path_factory.mktemp(policy), retained_layers=0.34, layer_policy=policy)
    )


@pytest.fixture(scope="module")
def selected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LayerSelection]:
    """What a policy chooses for a teacher in a folder."""
    folder = teacher_folder(tmp_path_factory.mktemp("teacher"))
    options = {"calibration_data": text, "retained_layers": 0.34, **SELECTION}
    return cache(lambda policy: select_layers(folder, device="cpu", layer_policy=policy, **options))


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is called from now on: solve, align_layer, score."""
    calls: list[str] = []

    def watch(owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(label), function(*args, **kwargs))[1])

    watch(fit_layer, "solve", "solve")
    watch(fit_layer, "align_layer", "align")
    watch(probe.DistanceFromTeacher, "__call__", "score")
    watch(probe, "perplexity", "score")
    return calls


@pytest.mark.parametrize("policy", POLICIES)
def test_student_is_the_one_of_the_list_that_the_policy_chose(policy: str, text: Path, chosen: Chosen) -> None:
    student = chosen(policy)
    selection = student.conversion_report.selection
    assert (selection.policy, len(selection.retained_layers), len(selection.ranking)) == (policy, 1, 3)
    by_list = convert(text, retained_layers=selection.retained_layers)
    assert equal_states(state_of(student), state_of(by_list))
    for row, expected in zip(student.conversion_report.layers, by_list.conversion_report.layers, strict=True):
        assert {**vars(row), "seconds": 0} == {**vars(expected), "seconds": 0}
    assert student.config.calibration["layer_policy"] == policy
    assert by_list.conversion_report.selection == LayerSelection("list", selection.retained_layers)


def test_layers_calibrated_for_the_selection_are_not_solved_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = watched(monkeypatch)
    convert(text, tmp_path, retained_layers=0.34, layer_policy="kl")
    assert [calls.count(name) for name in ("solve", "score")] == [3, 3]


@pytest.mark.parametrize("policy", POLICIES)
def test_going_on_after_the_selection_selects_nothing_again(
    policy: str, text: Path, chosen: Chosen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"retained_layers": 0.34, "layer_policy": policy}
    expected = chosen(policy)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert", lambda *args, **kwargs: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            convert(text, tmp_path, **options)
    calls = watched(monkeypatch)
    student = convert(text, tmp_path, **options)
    assert "score" not in calls
    assert calls.count("solve") == (2 if policy == "bypass" else 0)
    assert equal_states(state_of(student), state_of(expected))


def test_select_layers_chooses_what_a_conversion_would(text: Path, chosen: Chosen) -> None:
    selection = select_layers(
        letter_teacher(),
        letter_tokenizer(),
        calibration_data=text,
        retained_layers=0.34,
        layer_policy="kl",
        **SELECTION,
    )
    student = chosen("kl")
    found = student.conversion_report.selection
    assert (selection.retained_layers, selection.scores) == (found.retained_layers, found.scores)
    again = convert(text, retained_layers=selection)
    assert again.conversion_report.selection == selection
    assert equal_states(state_of(again), state_of(student))


def test_a_list_beside_a_policy_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="names the layers already"):
        HybridGDNForCausalLM.from_teacher("no/such-teacher", retained_layers=[0], layer_policy="kl")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("place", ["disk", "host memory"])
def test_an_offloaded_teacher_gives_the_same_choice(
    policy: str, place: str, text: Path, selected: Callable[[str], LayerSelection], tmp_path: Path
) -> None:
    folder = teacher_folder(tmp_path / "teacher", max_shard_size="20KB")
    options = {"calibration_data": text, "retained_layers": 0.34, "layer_policy": policy, **SELECTION}
    expected = selected(policy)
    if place == "disk":
        teacher = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "disk"}, offload_folder=tmp_path / "o")
    else:
        teacher = cpu_offload(AutoModelForCausalLM.from_pretrained(folder), torch.device("cpu"))
    before = teacher(torch.arange(3, 40)[None]).logits
    selection = select_layers(teacher, letter_tokenizer(), **options)
    assert (selection.ranking, selection.scores) == (expected.ranking, expected.scores)
    assert torch.equal(teacher(torch.arange(3, 40)[None]).logits, before)
    student = HybridGDNForCausalLM.from_teacher(teacher, letter_tokenizer(), alignment_steps=1, **options)
    assert student.conversion_report.retained_layers == expected.retained_layers


@pytest.mark.parametrize(
    ("share", "kept", "told"),
    [
        (0.01, 0, "retained_layers is 0.01, which of 3 layers rounds to 0: none keeps attention. The share of one"),
        (0.99, 3, "retained_layers is 0.99, which of 3 layers rounds to 3: all keep attention."),
        (0.0, 0, ""),
        (0.34, 1, ""),
        (1.0, 3, ""),
    ],
)
def test_a_share_that_rounds_to_none_or_all_is_told(
    text: Path, caplog: pytest.LogCaptureFixture, share: float, kept: int, told: str
) -> None:
    chosen = {"calibration_data": text, "retained_layers": share, "layer_policy": "uniform"}
    selection = select_layers(letter_teacher(), letter_tokenizer(), **chosen, **SELECTION)
    assert len(selection.retained_layers) == kept
    assert told in caplog.text
    assert ("rounds to" in caplog.text) == bool(told)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    short = text_file(tmp_path / "short.txt", letters=40)
    with pytest.raises(ValueError, match="two blocks are needed"):
        select_layers(letter_teacher(), letter_tokenizer(), calibration_data=short, layer_policy="kl", **SELECTION)


# The command line


def test_select_writes_a_file_that_convert_takes(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, out = teacher_folder(tmp_path / "teacher"), tmp_path / "new" / "selection.json"
    select = ["select", str(teacher), "--data", str(text), "--layer-policy", "greedy", "--retain", "0.67", *CALIBRATION]
    assert main([*select, "--out", str(out)]) == 0
    shown = capsys.readouterr().err
    selection = LayerSelection.load(out)
    listed = ",".join(map(str, selection.retained_layers))
    assert "Layers by greedy" in shown
    assert f"Retained layers: {listed}" in shown
    assert f"--retained-layers {out}" in shown
    picture = out.with_suffix(".png")
    assert sorted(out.parent.iterdir()) == [out, picture]
    assert f"The selection is in {out}, its scores as a picture in {picture}.\n" in shown
    convert = ["convert", str(teacher), "--data", str(text), "--alignment-steps", "0", *CALIBRATION]
    for name, given in (("by-file", str(out)), ("by-list", listed)):
        assert main([*convert, "--out", str(tmp_path / name), "--retained-layers", given]) == 0
    by_file, by_list = (ConversionReport.load(tmp_path / name) for name in ("by-file", "by-list"))
    assert by_file.retained_layers == by_list.retained_layers == selection.retained_layers
    assert by_file.selection == selection
    assert (tmp_path / "by-file" / "plot_selection.png").read_bytes() == picture.read_bytes()


def test_a_choice_without_scores_has_no_picture(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, out = teacher_folder(tmp_path / "teacher"), tmp_path / "new" / "selection.json"
    select = ["select", str(teacher), "--data", str(text), "--layer-policy", "uniform", *CALIBRATION]
    assert main([*select, "--out", str(out)]) == 0
    assert list(out.parent.iterdir()) == [out]
    assert f"The selection is in {out}.\n" in capsys.readouterr().err


def test_convert_chooses_by_policy(text: Path, tmp_path: Path) -> None:
    teacher, out = teacher_folder(tmp_path / "teacher"), tmp_path / "student"
    convert = ["convert", str(teacher), "--data", str(text), "--alignment-steps", "0", *CALIBRATION]
    assert main([*convert, "--out", str(out), "--retain", "0.34", "--layer-policy", "bypass"]) == 0
    assert ConversionReport.load(out).selection.policy == "bypass"


def test_select_refuses_what_it_cannot_write_or_understand(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    occupied = tmp_path / "selection.json"
    occupied.write_text("{}")
    picture = tmp_path / "drawn.png"
    picture.write_text("mine")
    for arguments, message in (
        (["select", "no/teacher", "--out", str(occupied)], "exists. Choose another --out"),
        (["select", "no/teacher", "--out", str(picture.with_suffix(".json"))], "for the picture, exists. Choose"),
        (["select", "no/teacher", "--out", str(tmp_path / "x.png")], "is the name of a picture. Choose another --out"),
        (["select", "no/teacher", "--out", str(tmp_path / "x.json"), "--retain", "2"], "must lie in [0, 1]"),
        (["select", str(tmp_path), "--out", str(tmp_path / "x.json"), "--data", "missing.txt"], "missing.txt"),
    ):
        assert main(arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert occupied.read_text() == "{}"
    assert picture.read_text() == "mine"
    line = unparsed(capsys, "convert", "no/teacher", "--out", "x", "--retained-layers", occupied)
    assert f"{occupied}: This is no selection of layers" in line
