# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Recall of models whose recall is known: one that copies, one that knows nothing, one that only knows what is near."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_causal_lms import tiny_llama
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_tc.evaluation.recall import PAIRS, lookup_rows, measure_recall, recall_rows

VOCABULARY = 97
NOTHING = torch.empty(0, dtype=torch.long)
CERTAIN = 30.0  # a logit beside which all others are nothing


class Copier(PreTrainedModel):
    """Says what followed the latest earlier occurrence of a token, if that is no further back than it reaches; says
    nothing certain of a token that is new."""

    config_class = PretrainedConfig
    base_model_prefix = "none"

    def __init__(self, reach: int = 10**6) -> None:
        super().__init__(PretrainedConfig(vocab_size=VOCABULARY))
        self.reach, self.embedding = reach, nn.Embedding(VOCABULARY, 1)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        rows = [[self.next_token(row[: end + 1]) for end in range(len(row))] for row in input_ids]
        return SimpleNamespace(logits=torch.stack([torch.stack(row) for row in rows]))

    def next_token(self, read: Tensor) -> Tensor:
        earlier = (read[:-1] == read[-1]).nonzero().flatten()
        if len(earlier) == 0 or len(read) - 1 - earlier[-1] > self.reach:
            return torch.zeros(VOCABULARY)
        return CERTAIN * F.one_hot(read[earlier[-1] + 1], VOCABULARY).float()


@pytest.fixture(scope="module")
def passages() -> Tensor:
    """Eight passages in none of which a token comes twice."""
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(VOCABULARY, generator=generator)[:12] for _ in range(8)])


def test_a_model_that_copies_knows_the_second_copy_and_finds_every_value(passages: Tensor) -> None:
    recall = measure_recall(Copier(), recall_rows(passages, NOTHING, [0, 5]), tokens_per_pass=100)
    assert (recall.passages, recall.passage_tokens) == (8, 12)
    assert recall.first_copy_nll == pytest.approx(torch.tensor(VOCABULARY).log().item(), rel=1e-6)
    assert recall.second_copy_nll == pytest.approx(0, abs=1e-9)
    assert recall.lookup_accuracy == {0: 1.0, 5: 1.0}


def test_a_model_that_knows_nothing_is_at_chance(passages: Tensor) -> None:
    recall = measure_recall(Copier(reach=0), recall_rows(passages, NOTHING, [0]))
    assert recall.second_copy_nll == recall.first_copy_nll
    assert recall.chance == 1 / PAIRS
    assert recall.lookup_accuracy[0] == pytest.approx(recall.chance, abs=3 * (recall.chance / recall.lookups) ** 0.5)


def test_a_model_of_short_memory_finds_what_is_near(passages: Tensor) -> None:
    reach = 3 * PAIRS  # further than any question is from its pair where nothing is in between
    recall = measure_recall(Copier(reach), recall_rows(passages, NOTHING, [0, 2 * PAIRS]))
    assert recall.second_copy_nll < 1e-6
    near, far = recall.lookup_accuracy.values()
    assert near > 0.9
    assert far < near - 0.3


def test_figures_do_not_depend_on_batches_nor_on_how_the_head_is_run(passages: Tensor) -> None:
    model = tiny_llama(vocab_size=VOCABULARY).eval()
    rows = recall_rows(passages, torch.tensor([1]), [3])
    one, many = (measure_recall(model, rows, tokens_per_pass=tokens) for tokens in (1, 4096))
    assert one == many
    log_probs = F.log_softmax(model(rows.repeated).logits.detach().double(), -1)
    nll = -log_probs[:, :-1].gather(2, rows.repeated[:, 1:, None])[..., 0]
    assert many.first_copy_nll == pytest.approx(nll[:, 1:12].mean().item(), rel=1e-5)
    assert many.second_copy_nll == pytest.approx(nll[:, 13:].mean().item(), rel=1e-5)


def test_rows_hold_list_text_and_questions() -> None:
    text = torch.randint(VOCABULARY, (60,), generator=torch.Generator().manual_seed(0))
    lookups = lookup_rows(text, torch.tensor([1]), 7, lists=4, pairs=3)
    assert lookups.input_ids.shape == (4, 1 + 6 + 7 + 5)
    for ids, positions, values, answers in zip(*vars(lookups).values(), strict=True):
        pairs = dict(ids[1:7].view(3, 2).tolist())
        assert list(pairs.values()) == values.tolist()
        assert ids[0] == 1
        assert not set(ids[1:7].tolist()) & set(ids[7:14].tolist())
        assert [pairs[key] for key in ids[positions].tolist()] == values[answers].tolist()
        assert sorted(answers.tolist()) == [0, 1, 2]


def test_refusals(passages: Tensor) -> None:
    with pytest.raises(ValueError, match="has 1 whole passage of 12 tokens"):
        recall_rows(passages[:1], NOTHING)
    with pytest.raises(ValueError, match=r"distance 512 needs as many tokens of text.*there are 96"):
        recall_rows(passages, NOTHING, [512])
    with pytest.raises(ValueError, match="distance -1 needs"):
        recall_rows(passages, NOTHING, [-1])
    with pytest.raises(ValueError, match=r"needs 16 different tokens.*the text has"):
        recall_rows(passages % 17, NOTHING, [4])
    short = tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=30)
    with pytest.raises(ValueError, match=r"rows of 43 tokens, and the Llama.* has 30 positions.* rows of 30 or less"):
        measure_recall(short, recall_rows(passages, NOTHING, [12]))
