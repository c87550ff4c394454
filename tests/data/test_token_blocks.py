# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Documents to blocks of token ids: joining, cutting, and refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_causal_lms import tiny_llama
from tiny_sizes import VOCABULARY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_tc.data.token_blocks import CalibrationDataError, begin_with, joined_tokens, shared_start, token_blocks
from hf_tc.teachers.vocabulary import check_vocabulary

EOS, BOS = 0, 1
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
SENTENCE = "It was a bright cold day in April, and the clocks were striking thirteen; nobody minded.\n\n"


def word_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A word is a token: "one" is 2, "two" is 3, ..."""
    vocabulary = {"<eos>": EOS, "<bos>": BOS, **{word: 2 + index for index, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": "<eos>", **special})


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([SENTENCE * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_documents_are_joined_with_eos_and_the_rest_is_dropped() -> None:
    blocks = token_blocks(["one two three", "four five", "six seven"], word_tokenizer(), 4)
    assert blocks.dtype == torch.int64
    assert blocks.tolist() == [[2, 3, 4, EOS], [5, 6, EOS, 7]]


def test_bos_is_kept_where_the_tokenizer_adds_one() -> None:
    tokenizer = word_tokenizer(bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = _bos_processor()
    assert joined_tokens(["one two", "three"], tokenizer) == [BOS, 2, 3, EOS, BOS, 4]


def test_every_block_starts_with_bos_where_the_tokenizer_adds_one() -> None:
    tokenizer = word_tokenizer(bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = _bos_processor()
    documents = ["one two three four five six", "seven one two", "three four"]
    blocks = token_blocks(documents, tokenizer, 4)
    assert blocks.tolist() == [[BOS, 2, 3, 4], [BOS, 5, 6, 7], [BOS, EOS, BOS, 8], [BOS, 2, 3, EOS]]
    assert torch.equal(token_blocks(documents, tokenizer, 4, 11), blocks[:2])
    assert shared_start(blocks).tolist() == [BOS]
    assert begin_with(blocks[:1], shared_start(blocks))
    plain = token_blocks(documents, word_tokenizer(), 4)
    assert shared_start(plain).tolist() == []
    assert not begin_with(plain, shared_start(blocks))


def _bos_processor() -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])


def test_max_tokens_gives_the_first_tokens_of_the_whole_text() -> None:
    tokenizer = bpe_tokenizer()
    documents = [SENTENCE * 3, SENTENCE[5:] * 400, SENTENCE]
    everything = token_blocks(documents, tokenizer, 32)
    for max_tokens in (32, 33, 63, 64, 100, 1000, 5000):
        blocks = token_blocks(documents, tokenizer, 32, max_tokens)
        assert len(blocks) == max_tokens // 32
        assert torch.equal(blocks, everything[: len(blocks)])
    assert torch.equal(token_blocks(documents, tokenizer, 32, 10**9), everything)


def test_max_tokens_with_words_much_longer_than_usual() -> None:
    long_words = [f"incomprehensi{index:02d}" for index in range(50)]  # with its space a token is 16 characters
    backend = Tokenizer(models.WordLevel({"<eos>": EOS, **{word: 2 + i for i, word in enumerate(long_words)}}, "<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    documents = [" ".join(long_words * 20), " ".join(reversed(long_words))]
    everything = token_blocks(documents, tokenizer, 10)
    for max_tokens in (100, 500, 990, 1000, 1040):
        assert torch.equal(token_blocks(documents, tokenizer, 10, max_tokens), everything[: max_tokens // 10])


def test_max_tokens_does_not_tokenize_everything() -> None:
    real, lengths = bpe_tokenizer(), []

    def counting(text: str, **kwargs: Any) -> Any:
        lengths.append(len(text))
        return real(text, **kwargs)

    tokenizer = _Counting(real, counting)
    token_blocks([SENTENCE * 10_000, SENTENCE], tokenizer, 16, 64)
    assert max(lengths) < 5_000


class _Counting:
    def __init__(self, tokenizer: Any, call: Any) -> None:
        self.eos_token_id, self.bos_token_id, self.call = tokenizer.eos_token_id, tokenizer.bos_token_id, call

    def __call__(self, text: str, **kwargs: Any) -> Any:
        return self.call(text, **kwargs)


def test_too_little_text_says_how_much_there_is() -> None:
    with pytest.raises(CalibrationDataError, match="has 7 tokens; one block of sequence_length needs 16"):
        token_blocks(["one two three", "four five six"], word_tokenizer(), 16)


def test_impossible_requests() -> None:
    with pytest.raises(CalibrationDataError, match="max_tokens is 8, below one block of sequence_length 16"):
        token_blocks(["one"], word_tokenizer(), 16, 8)
    with pytest.raises(CalibrationDataError, match="sequence_length is 1"):
        token_blocks(["one"], word_tokenizer(), 1)
    without_eos = word_tokenizer(eos_token=None)
    with pytest.raises(CalibrationDataError, match=r"2 documents .* Set tokenizer.eos_token"):
        token_blocks(["one two", "three"], without_eos, 2)
    assert token_blocks(["one two"], without_eos, 2).tolist() == [[2, 3]]


def test_vocabulary_must_fit_the_model() -> None:
    model = tiny_llama()
    check_vocabulary(SimpleNamespace(get_vocab=lambda: {"a": 0, "b": VOCABULARY - 1}), model)
    with pytest.raises(
        CalibrationDataError, match=f"{VOCABULARY + 1} tokens, LlamaForCausalLM has embeddings for {VOCABULARY}"
    ):
        check_vocabulary(SimpleNamespace(get_vocab=lambda: {"a": 0, "b": VOCABULARY}), model)
