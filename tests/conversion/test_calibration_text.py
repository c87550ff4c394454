# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Conversions on mixtures of text, read and sampled: proportions, names, resumption and what is refused at once."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from command_lines import QUICK as QUICK_COMMAND
from command_lines import refused
from conversion_inputs import LENGTH, QUICK, TOKENS, letter_teacher, teacher_folder, text_file, without_times
from student_folders import letter_tokenizer

from hf_tc import convert
from hf_tc.cli.main import main
from hf_tc.config import ConversionConfig
from hf_tc.conversion import calibration_text
from hf_tc.conversion.calibration_text import CalibrationText, mixed
from hf_tc.conversion.task import ConversionTask
from hf_tc.convert import from_teacher
from hf_tc.data.mixture import SHIPPED_SAMPLE
from hf_tc.data.text_files import read_documents
from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.sampling import sampled_text as sampling
from hf_tc.teachers.checks import will_be_on_one_gpu

UNIFORM = {**QUICK, "layer_policy": "uniform"}


def letters_file(path: Path, letters: str, count: int) -> Path:
    path.write_text("".join(random.Random(0).choices(letters, k=count)), encoding="utf-8")
    return path


def test_every_part_of_the_text_has_the_sources_in_proportion(tmp_path: Path) -> None:
    settings = ConversionConfig(calibration_tokens=64 * LENGTH, sequence_length=LENGTH)
    low, high = (letters_file(tmp_path / f"{letters}.txt", letters, 9999) for letters in ("abc", "xyz"))
    blocks = CalibrationText({low: 0.25, high: 0.75}, settings).blocks(letter_tokenizer())
    is_low = (blocks == letter_tokenizer().convert_tokens_to_ids("a")).any(dim=1)
    task = ConversionTask(letter_teacher(), blocks, settings, tmp_path)
    assert (len(task.fitted_blocks), len(task.held_out_blocks)) == (60, 4)
    assert (is_low[:60].sum(), is_low[60:].sum()) == (15, 1)
    assert all(3 <= part.sum() <= 5 for part in is_low.split(16))


def test_one_source_is_shuffled_as_ever() -> None:
    blocks, generator = torch.arange(5000)[:, None], torch.Generator().manual_seed(3)
    assert torch.equal(mixed([blocks], seed=3), blocks[torch.randperm(5000, generator=generator)])


def test_a_source_with_too_little_text_for_its_share_is_refused(tmp_path: Path) -> None:
    settings = ConversionConfig(calibration_tokens=TOKENS, sequence_length=LENGTH)
    long, short = text_file(tmp_path / "long.txt"), text_file(tmp_path / "short.txt", 100)
    with pytest.raises(CalibrationDataError, match=r"short\.txt has 96 tokens .* share 0\.5 of 256 needs 128"):
        CalibrationText({long: 0.5, short: 0.5}, settings).blocks(letter_tokenizer())
    with pytest.raises(CalibrationDataError, match=r"tiny\.txt: The text has 3 tokens"):
        CalibrationText({long: 0.5, letters_file(tmp_path / "tiny.txt", "a", 3): 0.5}, settings).blocks(
            letter_tokenizer()
        )


def test_too_little_text_is_refused_before_the_rest_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_text, "sampled_text", None)
    data = {"sampled": 0.5, text_file(tmp_path / "short.txt", 100): 0.5}
    with pytest.raises(CalibrationDataError, match=r"short\.txt has 96 tokens .* share 0\.5 of 256 needs 128"):
        from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=data, **UNIFORM)


def test_an_interrupted_conversion_goes_on_with_the_text_that_was_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {text_file(tmp_path / "text.txt"): 0.5, "sampled": 0.5}
    options = {"calibration_data": data, "checkpoint_dir": tmp_path / "layers", **UNIFORM}
    whole = from_teacher(letter_teacher(), letter_tokenizer(), **options | {"checkpoint_dir": None}).conversion_report
    assert whole.data == "text.txt (0.5), text sampled from the teacher (0.5)"
    assert whole.arguments["calibration_data"] == {"text.txt": 0.5, "sampled": 0.5}
    assert whole.calibration_tokens == TOKENS
    assert whole.stage_seconds["sample"] > 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            from_teacher(letter_teacher(), letter_tokenizer(), **options)
    monkeypatch.setattr(sampling, "sample_round", interrupted)
    resumed = from_teacher(letter_teacher(), letter_tokenizer(), **options).conversion_report
    assert without_times(resumed) == without_times(whole)
    with pytest.raises(ValueError, match=r"other arguments.*seed: 0 there, 1 now"):
        from_teacher(letter_teacher(), letter_tokenizer(), **options, seed=1)


def test_without_data_a_teacher_on_a_gpu_writes_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this CPU, where the packaged text is all there is, unless the teacher were said to be elsewhere."""
    packaged = from_teacher(letter_teacher(), letter_tokenizer(), **UNIFORM).conversion_report
    assert packaged.data == SHIPPED_SAMPLE
    monkeypatch.setattr(convert, "will_be_on_one_gpu", lambda *placement: True)
    half = from_teacher(letter_teacher(), letter_tokenizer(), **UNIFORM).conversion_report
    assert half.data == f"{SHIPPED_SAMPLE} (0.5), text sampled from the teacher (0.5)"
    assert half.stage_seconds["sample"] > 0
    assert half.calibration_tokens == packaged.calibration_tokens == TOKENS
    assert packaged.arguments["calibration_data"] == "sample_calibration.txt"
    assert half.arguments["calibration_data"] == {"sample_calibration.txt": 0.5, "sampled": 0.5}


def test_a_teacher_that_cannot_write_gets_the_packaged_text_where_none_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def senseless(*arguments: Any, **options: Any) -> Any:
        raise CalibrationDataError("80% of 10 documents are of no use.")

    messages: list[str] = []
    monkeypatch.setattr(calibration_text.logger, "warning", messages.append)
    monkeypatch.setattr(calibration_text, "sampled_text", senseless)
    monkeypatch.setattr(convert, "will_be_on_one_gpu", lambda *placement: True)
    report = from_teacher(letter_teacher(), letter_tokenizer(), **UNIFORM).conversion_report
    assert report.data == SHIPPED_SAMPLE
    assert report.arguments["calibration_data"] == "sample_calibration.txt"
    assert report.calibration_tokens == TOKENS
    assert "80% of 10 documents are of no use. Nothing of this was asked for" in messages[-1]
    with pytest.raises(CalibrationDataError, match="80%"):
        from_teacher(letter_teacher(), letter_tokenizer(), calibration_data="sampled", **UNIFORM)


def test_where_a_teacher_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = letter_teacher()
    assert not will_be_on_one_gpu(teacher, None, None)
    assert will_be_on_one_gpu(teacher, "cuda:1", None)
    assert not will_be_on_one_gpu("name", "cpu", None)
    for has_gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert will_be_on_one_gpu("name", None, None) == has_gpu
        assert not will_be_on_one_gpu("name", None, "auto")
    offloaded = cpu_offload(letter_teacher(), torch.device("cpu"))
    assert not will_be_on_one_gpu(offloaded, "cuda", None)


def test_conversations_without_a_template_are_refused_before_the_teacher_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = teacher_folder(tmp_path / "teacher")
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = None
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(convert, "load_teacher", None)
    for command in ("convert", "select"):
        words = "--data", "sampled:chat", *QUICK_COMMAND[: None if command == "convert" else 6]
        line = refused(capsys, command, folder, "--out", tmp_path / "out", *words)
        assert "no chat template. Sample free text (sampled:free)" in line
    line = refused(capsys, "convert", folder, "--dry-run", "--data", "sampled:chat")
    assert "no chat template. Sample free text (sampled:free)" in line
    with pytest.raises(CalibrationDataError, match="no chat template"):
        from_teacher(letter_teacher(), tokenizer, calibration_data="sampled:chat", **UNIFORM)


def test_the_commands_take_shares_and_a_plan_refuses_wrong_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, text = teacher_folder(tmp_path / "teacher"), text_file(tmp_path / "text.txt")
    words = ["--calibration-data", f"{text}=0.5", "sampled:free=0.5", *QUICK_COMMAND]
    assert main(["convert", str(teacher), "--dry-run", *words]) == 0
    line = refused(capsys, "convert", teacher, "--dry-run", "--data", f"{text}=0.5", "sampled=0.6")
    assert "add up to 1.1 (text.txt 0.5, text sampled from the teacher 0.6)" in line
    assert main(["convert", str(teacher), "--out", str(tmp_path / "out"), "--layer-policy", "uniform", *words]) == 0
    shown = (tmp_path / "out" / "conversion_report.md").read_text(encoding="utf-8")
    assert "calibration_data={'text.txt': 0.5, 'sampled:free': 0.5}" in shown


def test_what_is_sampled_follows_the_seed_of_the_conversion(tmp_path: Path) -> None:
    teacher, tokenizer, found = letter_teacher(), letter_tokenizer(), []
    for seed in (0, 1):
        settings = ConversionConfig(calibration_tokens=TOKENS, sequence_length=LENGTH, seed=seed)
        text = CalibrationText("sampled:free", settings)
        text.sample(teacher, tokenizer, tmp_path / str(seed))
        assert text.blocks(tokenizer).shape == (TOKENS // LENGTH, LENGTH)
        kept = tmp_path / str(seed) / calibration_text.SAMPLED_FOLDER / "free" / sampling.TEXT_FILE
        found.append(read_documents(kept))
    assert found[0] != found[1]
