# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Two layers fitted at once: the same layers, an end as soon as one fails or is interrupted, and threads as before."""

import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import circumstances, equal_states, letter_teacher
from layer_conversion import BLOCKS, Interrupted, settings

from hf_tc.config import MixerConfig
from hf_tc.conversion import fit_layer, layer_by_layer, run
from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.conversion.layer_by_layer import fit_layers
from hf_tc.conversion.side_by_side import run_side_by_side
from hf_tc.conversion.task import ConversionTask


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With one thread of torch's each, as the caller has one; no thread is left afterwards."""
    monkeypatch.setattr(layer_by_layer, "layers_at_once", lambda *_: 2)
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
    assert not [thread for thread in threading.enumerate() if "hf_tc" in thread.name]


def fitted(folder: Path, teacher: Any = None, **options: Any) -> ConversionCheckpoint:
    task = ConversionTask(teacher or letter_teacher(), BLOCKS, settings(**options), folder)
    checkpoint = run.begin(task, [])
    fit_layers(task, task.settings, checkpoint)
    return checkpoint


def same(a: ConversionCheckpoint, b: ConversionCheckpoint) -> bool:
    stages = [(layer, stage) for layer in range(3) for stage in ("closed_form", "aligned")]
    return all(equal_states(a.weights(*which), b.weights(*which)) for which in stages)


def alignments(monkeypatch: pytest.MonkeyPatch, *instead: Any) -> list[str]:
    """Puts functions in place of the first alignments that begin, None for none; the thread of each one begun."""
    align, begun, lock = fit_layer.align_layer, [], threading.Lock()

    def watched(*args: Any, **kwargs: Any) -> float:
        with lock:
            begun.append(threading.current_thread().name)
            mine = instead[len(begun) - 1] if len(begun) <= len(instead) else None
        if mine is not None:
            mine()
        return align(*args, **kwargs)

    monkeypatch.setattr(fit_layer, "align_layer", watched)
    return begun


def never_ends() -> None:
    while True:
        time.sleep(0.01)


def fails() -> None:
    raise Interrupted


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize("form", [{}, {"form": "qwen3_5"}])
def test_two_at_once_give_what_one_gives(form: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"mixer": MixerConfig(**form)}
    together = threading.Barrier(2, timeout=60)
    begun = alignments(monkeypatch, together.wait, together.wait)
    with torch.no_grad():  # of the caller, who need not know that layers are trained
        two = fitted(tmp_path / "two", **options)
    assert set(begun) == {"hf_tc-0", "hf_tc-1"}
    monkeypatch.setattr(layer_by_layer, "layers_at_once", lambda *_: 1)
    one = fitted(tmp_path / "one", **options)
    assert set(begun[3:]) == {threading.main_thread().name}
    assert same(one, two)
    errors = [[(row.error_closed_form, row.error_aligned) for row in map(c.row, range(3))] for c in (one, two)]
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize("instead", [(never_ends, fails), (fails, never_ends), (None, never_ends, fails)])
def test_an_error_ends_all_layers_and_what_was_finished_stays(
    instead: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = letter_teacher()
    before = circumstances(teacher)
    with monkeypatch.context() as patch:
        alignments(patch, *instead)
        with pytest.raises(Interrupted) as error:
            fitted(tmp_path / "parts", teacher)
    assert "fails" in [frame.name for frame in traceback.extract_tb(error.tb)]
    assert circumstances(teacher) == before
    assert len(list((tmp_path / "parts").glob("layer-*"))) == instead.count(None)
    begun = alignments(monkeypatch)
    parts = fitted(tmp_path / "parts", teacher)
    assert len(begun) == 3 - instead.count(None)
    assert same(parts, fitted(tmp_path / "whole"))


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """As a command in the foreground does; what a shell puts in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("two_at_once", "heeds_interrupts")
def test_an_interrupt_ends_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one goes through the teacher, with hooks on it, and the other aligns."""
    teacher, inside = letter_teacher(), threading.Event()
    before = circumstances(teacher)
    layer = teacher.model.layers[1]
    forward = layer.forward

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            inside.wait(60)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            never_ends()
        return forward(*args, **kwargs)

    layer.forward = interrupted
    start = time.perf_counter()
    with monkeypatch.context() as patch:
        alignments(patch, lambda: (inside.set(), never_ends()))
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "parts", teacher)
    assert time.perf_counter() - start < 30
    del layer.forward
    assert circumstances(teacher) == before
    assert same(fitted(tmp_path / "parts", teacher), fitted(tmp_path / "whole"))


def test_as_many_at_once_as_threads_and_memory_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, threads, found = ConversionTask(letter_teacher(), BLOCKS, settings(), tmp_path), torch.get_num_threads(), []
    task.make_recurrent(range(3))
    try:
        for own, free in ((2, 10**12), (1, 10**12), (2, 0)):
            torch.set_num_threads(own)
            monkeypatch.setattr(layer_by_layer, "free_host_bytes", lambda free=free: free)
            found.append(layer_by_layer._at_once(task, task.settings, BLOCKS))
    finally:
        torch.set_num_threads(threads)
    assert found == [2, 1, 1]


def test_threads_share_those_of_torch_and_the_caller_has_as_many_as_before() -> None:
    found: dict[int, int] = {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        run_side_by_side(lambda index: found.update({index: torch.get_num_threads()}), 2)
        assert torch.get_num_threads() == 5
        with pytest.raises(Interrupted):
            run_side_by_side(lambda index: fails(), 2)
        assert torch.get_num_threads() == 5
        later = threading.Thread(target=lambda: found.update({2: torch.get_num_threads()}))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(threads)
    assert found == {0: 2, 1: 2, 2: 5}


@pytest.mark.parametrize("number", [1, 2])
def test_whatever_one_raises_comes_out(number: int) -> None:
    def leaves(index: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_side_by_side(leaves, number)


@pytest.mark.parametrize("number", [1, 2])
def test_gradients_are_on(number: int) -> None:
    found: list[bool] = []
    with torch.no_grad():
        run_side_by_side(lambda index: found.append(torch.is_grad_enabled()), number)
    assert found == [True] * number


def test_layers_of_another_way_of_fitting_are_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(tmp_path)
    monkeypatch.setattr("hf_tc.conversion.task.WAY_OF_FITTING", 1)
    with pytest.raises(ValueError, match=r"other arguments.*way_of_fitting: 3 there, 1 now"):
        fitted(tmp_path)
