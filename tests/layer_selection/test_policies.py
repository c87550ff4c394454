# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policies on teachers whose answer is known: one layer's attention does nothing, another's matters most."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from conversion_inputs import circumstances, equal_states, letter_teacher, state_of
from planted import random_blocks
from transformers import PreTrainedModel

from hf_tc.config import ConversionConfig, SelectionConfig
from hf_tc.conversion import choose_layers as choosing
from hf_tc.conversion import layer_by_layer
from hf_tc.conversion.checkpoint import CANDIDATES, SCORES
from hf_tc.conversion.choose_layers import choose_layers
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import perplexity
from hf_tc.layer_selection import probe, recall, restore
from hf_tc.layer_selection.policies import MEASURING_POLICIES
from hf_tc.layer_selection.probe import bypassed
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, output_projection
from hf_tc.selection import LayerSelection

Chosen = Callable[[str], tuple[LayerSelection, Path]]
SETTINGS = ConversionConfig(calibration_tokens=256, sequence_length=32)


def text_of(teacher: PreTrainedModel) -> torch.Tensor:
    """Blocks `[8, 32]` that the teacher itself goes on with: whatever is taken from it makes them less likely."""
    blocks = random_blocks(8, 4)
    with torch.no_grad():
        for _ in range(28):
            blocks = torch.cat([blocks, teacher(blocks).logits[:, -1:].argmax(-1)], dim=1)
    return blocks


def teacher_with(silent: int | None = None, loud: int | None = None, **changes: Any) -> PreTrainedModel:
    """A random teacher, one of whose layers' attention adds nothing, another's ten times as much."""
    teacher = letter_teacher(num_hidden_layers=4, **changes)
    for layer, factor in ((silent, 0.0), (loud, 10.0)):
        if layer is not None:
            attention = find_attention(find_decoder_layers(teacher.base_model)[layer])[1]
            output_projection(attention).weight.data *= factor
    return teacher


def choose(
    folder: Path, policy: str | None, retained: Any = 0.5, teacher: PreTrainedModel | None = None, **changes: Any
):
    settings = replace(SETTINGS, selection=SelectionConfig(retained, policy), **changes)
    blocks = BLOCKS if teacher is None else text_of(teacher)
    return choose_layers(ConversionTask(teacher or TEACHER, blocks, settings, folder, share_weights=True))


def measured_in(folder: Path) -> dict[str, float]:
    """The scores that a selection leaves, by their names, in the order in which they were measured, none twice."""
    rows = [json.loads(line) for line in (folder / SCORES / "scores.jsonl").read_text().splitlines()]
    scores = {row["name"]: row["score"] for row in rows}
    assert len(scores) == len(rows)
    return scores


TEACHER = teacher_with(silent=2, loud=1)
BLOCKS = text_of(TEACHER)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """What a policy chooses for TEACHER, and the folder that it leaves, which no test changes."""

    @cache
    def choice(policy: str) -> tuple[LayerSelection, Path]:
        folder = tmp_path_factory.mktemp(policy)
        return choose(folder, policy), folder

    return choice


# Known answers


@pytest.mark.parametrize("policy", MEASURING_POLICIES)
@pytest.mark.parametrize("silent", [0, 2])
def test_a_layer_whose_attention_does_nothing_is_the_last_to_retain(
    policy: str, silent: int, chosen: Chosen, tmp_path: Path
) -> None:
    if silent == 2:  # as in TEACHER
        selection, _ = chosen(policy)
    else:
        selection = choose(tmp_path, policy, teacher=teacher_with(silent=silent, loud=1))
    if policy in ("restore", "recall"):  # another layer may do harm among recurrent ones
        scores = dict(zip(selection.ranking, selection.scores, strict=True))
        assert scores[silent] == pytest.approx(0.0, abs=1e-6)
    else:
        assert selection.ranking[-1] == silent
    assert sorted(selection.ranking) == [0, 1, 2, 3]
    assert 1 in selection.retained_layers
    assert selection.retained_layers == sorted(selection.ranking[:2])


def test_bypass_scores_are_perplexities_without_the_attention(tmp_path: Path) -> None:
    teacher = teacher_with(silent=2, loud=1)
    selection = choose(tmp_path, "bypass", teacher=teacher)
    scores = dict(zip(selection.ranking, selection.scores, strict=True))
    assert scores[2] == pytest.approx(perplexity(teacher, BLOCKS))
    for layer in (0, 1, 3):
        changed = teacher_with(silent=layer, loud=1)
        find = find_attention(find_decoder_layers(changed.base_model)[2])[1]
        output_projection(find).weight.data *= 0.0
        expected = perplexity(changed, BLOCKS)
        assert scores[layer] == pytest.approx(expected, rel=1e-5)
    assert selection.scores == sorted(selection.scores, reverse=True)
    assert not (tmp_path / CANDIDATES).exists()


def test_kl_of_a_silent_layer_is_nothing_and_scores_descend(chosen: Chosen) -> None:
    selection, _ = chosen("kl")
    assert selection.scores[-1] == pytest.approx(0.0, abs=1e-6)
    assert selection.scores == sorted(selection.scores, reverse=True)
    assert selection.scores[0] > 1e-3


def test_recall_adds_what_second_copies_gain_to_what_text_gains(chosen: Chosen) -> None:
    (by_text, _), (by_both, folder) = (chosen(policy) for policy in ("restore", "recall"))
    text, second = (by_both.components[name] for name in ("text", "second copies"))
    assert by_both.scores == pytest.approx([a + b for a, b in zip(text, second, strict=True)])
    measured, first, everything = measured_in(folder), by_both.ranking[0], "converted 0,1,2,3"
    without = "converted " + ",".join(str(layer) for layer in range(4) if layer != first)
    assert text[0] == measured[everything] - measured[without] > 1e-4
    assert second[0] == measured[f"{everything}, second copies"] - measured[f"{without}, second copies"] > 1e-4
    assert second[by_both.ranking.index(2)] == pytest.approx(0.0, abs=1e-6)  # of the silent layer
    assert by_text.components == {}
    assert (by_text.ranking[0], by_text.scores[0]) == (first, text[0])


def test_first_step_of_greedy_is_the_one_swap_that_costs_least(chosen: Chosen) -> None:
    single, greedy = (chosen(policy)[0] for policy in ("kl", "greedy"))
    assert greedy.ranking[-1] == single.ranking[-1]
    assert greedy.scores[-1] == single.scores[-1]


def test_fewer_layers_are_retained_out_of_more(tmp_path: Path) -> None:
    chosen = [set(choose(tmp_path, "greedy", share).retained_layers) for share in (0.25, 0.5, 0.75)]
    assert [len(layers) for layers in chosen] == [1, 2, 3]
    assert chosen[0] < chosen[1] < chosen[2]


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "cohere", "olmo2"])
def test_bypass_takes_the_attention_out_of_every_family(family: str) -> None:
    teacher = letter_teacher(family)
    ids = BLOCKS[:2]
    before = circumstances(teacher)
    seen: dict[str, torch.Tensor] = {}
    attention = find_attention(find_decoder_layers(teacher.base_model)[1])[1]
    with torch.no_grad(), bypassed(teacher, 1):
        handle = attention.register_forward_hook(lambda module, args, output: seen.update(output=output[0]))
        without = teacher(ids).logits
        handle.remove()
    assert not seen["output"].any()
    assert circumstances(teacher) == before
    assert not torch.equal(teacher(ids).logits, without)
    with torch.no_grad():
        for parameter in output_projection(attention).parameters():
            parameter.zero_()
    torch.testing.assert_close(teacher(ids).logits, without)


# What a selection costs and leaves behind


@pytest.mark.parametrize("policy", MEASURING_POLICIES)
def test_cost(policy: str, chosen: Chosen) -> None:
    selection, folder = chosen(policy)
    measured, known = measured_in(folder), {"bypass": 4, "kl": 4, "greedy": 4 + 3 + 2}
    assert (selection.policy, selection.forwards, selection.tokens) == (policy, known.get(policy, len(measured)), 256)
    assert any("second copies" in name for name in measured) is (policy == "recall")
    assert selection.seconds > 0
    assert selection.score_meaning == MEASURING_POLICIES[policy].score_meaning


@pytest.mark.parametrize("policy", MEASURING_POLICIES)
def test_teacher_is_only_read(policy: str, tmp_path: Path) -> None:
    teacher = teacher_with(silent=2)
    weights, before = state_of(teacher), circumstances(teacher)
    choose(tmp_path, policy, teacher=teacher)
    assert equal_states(state_of(teacher), weights)
    assert circumstances(teacher) == before


def test_layers_are_compared_on_the_held_out_blocks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "SELECTION_TOKENS", 70)
    seen = []
    monkeypatch.setattr(probe, "perplexity", lambda model, blocks, **_: float(seen.append(blocks) or len(seen)))
    assert choose(tmp_path, "bypass").tokens == 64
    assert torch.equal(seen[0], BLOCKS[-2:])


# Choices that need no measurement


def test_uniform_lists_and_earlier_selections(tmp_path: Path) -> None:
    assert choose(tmp_path, "uniform") == LayerSelection("uniform", [0, 2])
    assert choose(tmp_path, None, [3, 1]) == LayerSelection("list", [1, 3])
    earlier = choose(tmp_path / "a", "bypass")
    assert choose(tmp_path, None, earlier) == earlier
    for policy in MEASURING_POLICIES:
        assert choose(tmp_path, policy, 0.0) == LayerSelection(policy, [])
        assert choose(tmp_path, policy, 1) == LayerSelection(policy, [0, 1, 2, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("retained", "policy", "message"),
    [
        (0.5, "best", "layer_policy is 'best'; it must be one of uniform, bypass, greedy, kl, restore, recall"),
        ([0, 1], "greedy", "names the layers already"),
        (LayerSelection("kl", [0]), "kl", "names the layers already"),
        (1.5, "greedy", r"a share must lie in \[0, 1\]"),
        (-0.1, None, r"a share must lie in \[0, 1\]"),
        ("greedy", None, "as layer_policy"),
    ],
)
def test_what_cannot_be_meant_is_refused(retained: Any, policy: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionConfig(retained, policy)


def test_a_selection_of_a_deeper_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains 7; the teacher has 4 layers"):
        choose(tmp_path, None, LayerSelection("kl", [0, 7]))


# Interruption


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("policy", MEASURING_POLICIES)
def test_going_on_measures_only_what_is_missing(
    policy: str, chosen: Chosen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = chosen(policy)
    calls: list[int] = []
    perplexity_of, distance_of = probe.perplexity, probe.DistanceFromTeacher.__call__

    def counted(function: Any, limit: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) > limit:
                raise Interrupted
            return function(*args, **kwargs)

        return call

    def watch(limit: int) -> None:
        calls.clear()
        monkeypatch.setattr(probe, "perplexity", counted(perplexity_of, limit))
        monkeypatch.setattr(probe.DistanceFromTeacher, "__call__", counted(distance_of, limit))

    for measured in (0, 1, 2):  # each time
        watch(measured)
        with pytest.raises(Interrupted):
            choose(tmp_path, policy)
        again = pytest.fail.Exception("a candidate was calibrated again")
        monkeypatch.setattr(layer_by_layer, "fit_layer", MagicMock(side_effect=again))
    watch(1000)
    selection = choose(tmp_path, policy)
    assert len(calls) == expected.forwards - 3
    assert (selection.ranking, selection.scores) == (expected.ranking, expected.scores)
    assert selection.forwards == expected.forwards
    watch(0)
    assert choose(tmp_path, policy) == selection


def test_what_one_policy_measured_serves_another(chosen: Chosen, tmp_path: Path) -> None:
    (of_text, _), (_, folder) = chosen("restore"), chosen("recall")
    selection = choose(shutil.copytree(folder, tmp_path / "begun"), "restore")
    assert (selection.ranking, selection.scores) == (of_text.ranking, of_text.scores)


def test_a_line_torn_by_a_crash_is_measured_again(tmp_path: Path) -> None:
    expected = choose(tmp_path, "bypass")
    scores = tmp_path / SCORES / "scores.jsonl"
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:2]) + "\n" + lines[2][:9])
    assert choose(tmp_path, "bypass").scores == expected.scores
    assert list(measured_in(tmp_path)) == [f"without {i}" for i in range(4)]


@pytest.mark.parametrize("policy", MEASURING_POLICIES)
def test_going_on_with_another_teacher_is_refused(policy: str, chosen: Chosen, tmp_path: Path) -> None:
    folder = shutil.copytree(chosen(policy)[1], tmp_path / "begun")
    with pytest.raises(ValueError, match="other arguments"):
        choose(folder, policy, teacher=teacher_with(silent=1))


class PlannedProbe:
    """Answers by tables of restored layers instead of measuring; counts the hybrids asked for."""

    def __init__(self, kl: dict[tuple[int, ...], float], recall_kl: dict[tuple[int, ...], float] | None = None) -> None:
        self.layers, self.asked = range(3), list[frozenset[int]]()
        self.kl, self.recall_kl = ({frozenset(layers): x for layers, x in (t or {}).items()} for t in (kl, recall_kl))

    def kl_of(self, converted: Any) -> float:
        restored = frozenset(self.layers) - frozenset(converted)
        self.asked.append(restored)
        return self.kl[restored]

    def recall_kl_of(self, converted: Any) -> float:
        return self.recall_kl[frozenset(self.layers) - frozenset(converted)]


def test_restore_goes_on_from_what_it_has_and_measures_no_more_than_it_must() -> None:
    """Layer 1 helps most alone; beside it layer 0, second alone, helps little, and layer 2 more."""
    kl = {(): 1.0, (0,): 0.7, (1,): 0.5, (2,): 0.8, (0, 1): 0.45, (1, 2): 0.35}
    planned = PlannedProbe(kl)
    ranking = restore.rank(planned, 2)
    assert [ranked.layer for ranked in ranking] == [1, 2, 0]
    assert [ranked.score for ranked in ranking] == pytest.approx([0.5, 0.15, 0.05])
    assert planned.asked[4:] == [{0, 1}, {1, 2}]
    few = PlannedProbe(kl | {(0, 1): 0.2})
    assert [ranked.layer for ranked in restore.rank(few, 2)] == [1, 0, 2]
    assert few.asked[4:] == [{0, 1}]  # layer 2 gained less alone, and is not asked again


def test_recall_goes_by_the_sum() -> None:
    """Text would take layer 1 first, second copies layer 2; layer 0 gains the most of both together."""
    kl = {(): 1.0, (0,): 0.7, (1,): 0.6, (2,): 0.9, (0, 2): 0.55}
    recall_kl = {(): 2.0, (0,): 1.5, (1,): 1.8, (2,): 1.4, (0, 2): 1.0}
    ranking = recall.rank(PlannedProbe(kl, recall_kl), 2)
    assert [ranked.layer for ranked in ranking] == [0, 2, 1]
    assert ranking[0].parts == pytest.approx({"text": 0.3, "second copies": 0.5})
    assert ranking[1].parts == pytest.approx({"text": 0.15, "second copies": 0.5})


def test_restore_of_what_is_infinitely_bad() -> None:
    planned = PlannedProbe({(): math.inf, (0,): math.inf, (1,): 0.5, (2,): math.inf})
    ranking = restore.rank(planned, 1)
    assert ranking[0].layer == 1
    assert [ranked.score for ranked in ranking] == [math.inf, 0.0, 0.0]
