# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A device that is not there is refused in words, before anything is loaded."""

from typing import Any

import pytest
import torch

from hf_tc.teachers import checks
from hf_tc.teachers.devices import check_devices, device_name, devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def test_names_have_numbers(two_gpus: None) -> None:
    assert devices() == ["cpu", "cuda:0", "cuda:1"]
    names = {"cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1", 1: "cuda:1", torch.device("cuda", 3): "cuda:3"}
    assert {asked: device_name(asked) for asked in names} == names
    assert device_name("abacus") == "abacus"


@pytest.mark.parametrize("value", [None, "cpu", 1, "cuda", "auto", {"": "cuda:1"}, {"model": 0, "lm_head": "disk"}])
def test_what_is_there_is_taken(value: Any, two_gpus: None) -> None:
    check_devices("device_map", value)


@pytest.mark.parametrize(
    ("value", "words"), [("cuda:2", ("auto",)), ("auto", ()), ("disk", ("auto",)), ({"": "auto"}, ("auto",)), (7, ())]
)
def test_what_is_not_there_is_refused(value: Any, words: tuple[str, ...], two_gpus: None) -> None:
    with pytest.raises(ValueError, match=r"device_map is '.*', and this machine has 2 GPUs: it must be cpu or cuda:0"):
        check_devices("device_map", value, words)


@pytest.mark.parametrize("options", [{"device": "cuda:7"}, {"device": "auto"}, {"device_map": "cuda:7"}])
def test_a_conversion_is_refused_before_its_teacher_is_loaded(
    options: dict[str, str], two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_load", None)
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}', and this machine has 2 GPUs"):
        checks.load_teacher("some-teacher", **options)
