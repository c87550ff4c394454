# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Teachers whose weights are not all on one device: the same student as of an ordinary teacher, which still works."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conversion_inputs import QUICK, equal_states, letter_teacher, state_of, teacher_folder, text_file
from student_folders import letter_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from hf_tc.convert import from_teacher
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.offloading import (
    dispatch_like,
    dispatched_like,
    execution_device,
    gather,
    is_dispatched,
    stored_weights,
    student_device_map,
)

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"), max_shard_size="20KB")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def ordinary_student(folder: Path, text: Path) -> HybridGDNForCausalLM:
    return from_teacher(str(folder), calibration_data=text, device="cpu", **QUICK)


def loaded(folder: Path, where: dict[str, str] | dict[str, str | int], offload_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, device_map=where, offload_folder=offload_folder)


def split(first: str | int, other: str | int) -> dict[str, str | int]:
    """Layers 0 and 2, and the embedding, on `first`; what is between and after them on `other`."""
    on_first = ("model.embed_tokens", "model.layers.0", "model.layers.2")
    on_other = ("model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
    return {**dict.fromkeys(on_first, first), **dict.fromkeys(on_other, other)}


def offloaded_to_cpu(folder: Path) -> PreTrainedModel:
    return cpu_offload(AutoModelForCausalLM.from_pretrained(folder), CPU)


def dispatched_teachers(folder: Path, scratch: Path) -> dict[str, PreTrainedModel]:
    return {
        "one device": loaded(folder, {"": "cpu"}, scratch),
        "disk": loaded(folder, split("disk", "cpu"), scratch),
        "all on disk": loaded(folder, {"": "disk"}, scratch),
        "offloaded to the CPU": offloaded_to_cpu(folder),
    }


@pytest.mark.parametrize("kind", ["one device", "disk", "all on disk", "offloaded to the CPU"])
def test_the_student_is_that_of_an_ordinary_teacher(
    kind: str, folder: Path, text: Path, tmp_path: Path, ordinary_student: HybridGDNForCausalLM
) -> None:
    teacher = dispatched_teachers(folder, tmp_path / "offload")[kind]
    assert any(parameter.is_meta for parameter in teacher.parameters()) == (kind != "one device")
    before = teacher(TOKENS).logits
    student = from_teacher(teacher, letter_tokenizer(), calibration_data=text, **QUICK)
    assert equal_states(state_of(student), state_of(ordinary_student))
    assert student.conversion_report.perplexity == ordinary_student.conversion_report.perplexity
    assert torch.equal(student(TOKENS).logits, ordinary_student(TOKENS).logits)
    assert torch.equal(teacher(TOKENS).logits, before)
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert equal_states(state_of(again), state_of(ordinary_student))


def test_a_device_map_reaches_a_teacher_by_name(
    folder: Path, text: Path, tmp_path: Path, ordinary_student: HybridGDNForCausalLM
) -> None:
    options: dict[str, Any] = {"calibration_data": text, **QUICK}
    student = from_teacher(str(folder), device_map=split("disk", "cpu"), **options)
    assert equal_states(state_of(student), state_of(ordinary_student))
    automatic = from_teacher(str(folder), device_map="auto", dtype="float32", **options)
    assert automatic.config.linear_layers == ordinary_student.config.linear_layers
    with pytest.raises(ValueError, match="device or device_map"):
        from_teacher(str(folder), device_map="auto", device="cpu", **options)


def test_a_dispatched_teacher_is_not_moved(folder: Path, text: Path) -> None:
    teacher = offloaded_to_cpu(folder)
    with pytest.raises(ValueError, match="already placed"):
        from_teacher(teacher, letter_tokenizer(), calibration_data=text, device="cpu", **QUICK)
    with pytest.raises(ValueError, match="already placed"):
        from_teacher(teacher, letter_tokenizer(), calibration_data=text, device_map="auto", **QUICK)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("other", ["cpu", "disk", 1])
def test_what_a_gpu_computes_does_not_depend_on_where_weights_are(
    other: str | int, folder: Path, text: Path, tmp_path: Path
) -> None:
    if other == 1 and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    # Joint alignment is the default of a teacher on one GPU alone.
    options: dict[str, Any] = {"calibration_data": text, "joint_steps": 0, **QUICK}
    alone = from_teacher(str(folder), device="cuda:0", **options)
    teacher = loaded(folder, split(0, other), tmp_path / "offload")
    student = from_teacher(teacher, letter_tokenizer(), **options)
    ours, theirs = student.conversion_report, alone.conversion_report
    for stage, perplexity in theirs.perplexity.items():
        assert ours.perplexity[stage] == pytest.approx(perplexity, rel=2e-2), stage
    where = {parameter.device.type for parameter in student.parameters()}
    assert where == ({"cuda"} if other == 1 else {"cuda", "meta"})
    logits = student(TOKENS.to("cuda:0")).logits.cpu()
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")(TOKENS).logits
    assert (again - logits).norm() < 1e-2 * logits.norm()  # a GPU's kernels may take products in TF32


# The parts


def test_stored_weights_are_the_ordinary_models(folder: Path, tmp_path: Path) -> None:
    expected = dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    for teacher in dispatched_teachers(folder, tmp_path).values():
        assert equal_states(dict(stored_weights(teacher)), expected)
        assert execution_device(teacher) == CPU


def test_weights_in_memory_are_not_copied() -> None:
    teacher = letter_teacher()
    own = {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    assert {tensor.data_ptr() for _, tensor in stored_weights(teacher)} == own
    offloaded = cpu_offload(letter_teacher(), CPU)
    first, second = ({t.data_ptr() for _, t in stored_weights(offloaded)} for _ in range(2))
    assert first == second


def test_weights_that_are_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="has no data"):
        dict(stored_weights(letter_teacher().to("meta")))


def test_a_student_goes_where_its_teacher_is_but_not_to_disk(folder: Path, tmp_path: Path) -> None:
    teachers = dispatched_teachers(folder, tmp_path)
    assert student_device_map(letter_teacher()) is None
    assert student_device_map(teachers["one device"]) is None
    assert student_device_map(teachers["disk"]) == split("cpu", "cpu")
    assert student_device_map(teachers["offloaded to the CPU"]) == {"": "cpu"}


@pytest.mark.parametrize("output_norm", [False, True])
def test_a_student_beside_computes_and_can_be_written_afterwards(
    monkeypatch: pytest.MonkeyPatch, output_norm: bool
) -> None:
    teacher = cpu_offload(letter_teacher(), CPU)
    student = build_student(letter_teacher(), ["linear_attention"] * 3, config_kwargs={"output_norm": output_norm})
    expected, weights = student(TOKENS).logits, state_of(student)
    # `dispatch_like` leaves a student whose teacher computes on the CPU as it is; offload it as for a GPU.
    monkeypatch.setattr("hf_tc.teachers.offloading.dispatch_like", lambda student, teacher: cpu_offload(student, CPU))
    with dispatched_like(student, teacher):
        assert is_dispatched(student)
        assert all(parameter.is_meta for parameter in student.parameters())
        assert torch.equal(student(TOKENS).logits, expected)
    assert not is_dispatched(student)
    assert equal_states(state_of(student), weights)
    assert torch.equal(student(TOKENS).logits, expected)


def test_gathering_keeps_ties_and_gradients() -> None:
    student = build_student(letter_teacher(tie_word_embeddings=True), ["linear_attention"] * 3)
    student.model.norm.weight.requires_grad_(False)
    cpu_offload(student, CPU)
    gather(student)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.norm.weight"]


def test_a_teacher_on_the_cpu_needs_no_hooks(folder: Path, tmp_path: Path) -> None:
    for teacher in dispatched_teachers(folder, tmp_path).values():
        student = build_student(teacher, ["linear_attention"] * 3)
        dispatch_like(student, teacher)
        assert not is_dispatched(student)
        assert {parameter.device for parameter in student.parameters()} == {CPU}


# Attention kernels and 8-bit weights


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_the_student_does_not_depend_on_the_teachers_attention_kernel(family: str, text: Path) -> None:
    students = []
    for kernel in ("eager", "sdpa"):
        teacher = letter_teacher(family, sliding_window=20)
        teacher.set_attn_implementation(kernel)
        options = {"calibration_data": text, "retained_layers": [0], **QUICK}
        students.append(from_teacher(teacher, letter_tokenizer(), **options))
    eager, sdpa = (student.conversion_report for student in students)
    for ours, theirs in zip(eager.layers, sdpa.layers, strict=True):
        assert ours.head_distances == pytest.approx(theirs.head_distances, rel=1e-4)
        assert ours.head_half_lives == pytest.approx(theirs.head_half_lives, rel=2e-2)
        assert ours.error_closed_form == pytest.approx(theirs.error_closed_form, rel=3e-2)
    assert eager.perplexity["teacher"] == pytest.approx(sdpa.perplexity["teacher"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_an_8_bit_teacher_gives_a_student_of_its_dequantised_weights(folder: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = BitsAndBytesConfig(load_in_8bit=True)
    teacher = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantised, device_map="cpu")
    ordinary = AutoModelForCausalLM.from_pretrained(folder)
    weights = dict(stored_weights(teacher))
    assert weights.keys() == ordinary.state_dict().keys()
    for name, expected in ordinary.state_dict().items():
        rounding = expected.abs().amax(-1, keepdim=True) / 127 if expected.dim() > 1 else 0.0
        allowed = 0.5 * rounding + 2e-3 * expected.abs() + 1e-6  # bitsandbytes rounds from float16
        assert bool(((weights[name] - expected).abs() <= allowed).all()), name
    student = from_teacher(teacher, letter_tokenizer(), calibration_data=text, **QUICK)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert torch.equal(student.model.layers[0].mlp.up_proj.weight, weights["model.layers.0.mlp.up_proj.weight"])
    assert student.conversion_report.perplexity["aligned"] < 1.5 * student.conversion_report.perplexity["teacher"]
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert equal_states(state_of(again), state_of(student))
