# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher's predictions on disk: what is written, what is learned from it, and which caches are refused."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher, text_file
from distillation_runs import config, logged
from student_folders import VOCABULARY, letter_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation import cache_teacher as writing
from hf_tc.distillation.cache_teacher import cache_teacher
from hf_tc.distillation.teacher_cache import CACHE_FILE, CacheIdentity, load_teacher_cache, mean_rest

pytest.importorskip("datasets")

LENGTH, TOKENS, ALL = 32, 320, len(VOCABULARY) + 1


def student(seed: int = 7) -> Qwen3ForCausalLM:
    model = letter_teacher()
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def write(text: Path) -> Callable[..., Any]:
    def cached(out: Path, teacher: Any = None, **changes: Any) -> Any:
        arguments = {"data": text, "tokens": TOKENS, "sequence_length": LENGTH, "top_k": 8, "device": "cpu", **changes}
        return cache_teacher(letter_teacher() if teacher is None else teacher, letter_tokenizer(), out=out, **arguments)

    return cached


@pytest.fixture(scope="module")
def caches(write: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By the number of tokens kept."""
    folder = tmp_path_factory.mktemp("caches")
    for k in (8, ALL):
        write(folder / str(k), top_k=k)
    return {k: folder / str(k) for k in (8, ALL)}


@pytest.fixture(scope="module")
def blocks(text: Path) -> list[dict[str, Any]]:
    return [{"input_ids": ids} for ids in token_blocks(read_documents(text), letter_tokenizer(), LENGTH, TOKENS)]


def trainer(folder: Path, teacher: Any, data: Any, **changes: Any) -> DistillationTrainer:
    arguments = config(folder, **{"max_steps": 3, "chunk_tokens": 50, **changes})
    dataset = {"train_dataset": data, "eval_dataset": data}
    return DistillationTrainer(student(), teacher, arguments, **dataset, processing_class=letter_tokenizer())


@pytest.mark.parametrize("k", [8, ALL])
def test_it_holds_what_the_teacher_predicts(k: int, caches: dict[int, Path], blocks: list[dict[str, Any]]) -> None:
    cache = load_teacher_cache(caches[k])
    assert torch.equal(cache[:]["input_ids"], torch.stack([block["input_ids"] for block in blocks]))
    with torch.no_grad():
        exact = letter_teacher().double()(cache[:]["input_ids"]).logits.log_softmax(-1)
    rows = cache[:]
    torch.testing.assert_close(rows["teacher_log_probs"].double(), exact.topk(k).values, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        exact.gather(-1, rows["teacher_ids"]).float(), rows["teacher_log_probs"], rtol=0, atol=1e-5
    )
    others = torch.ones_like(exact).scatter(-1, rows["teacher_ids"], 0.0)
    rest = (others * exact.exp()).sum(-1)
    torch.testing.assert_close(rows["teacher_log_rest"].exp().double(), rest, rtol=1e-5, atol=0)
    assert mean_rest(cache) == pytest.approx(rest.mean().item(), rel=1e-5)
    following = exact[:, :-1].gather(-1, rows["input_ids"][:, 1:, None])[..., 0]
    torch.testing.assert_close(rows["teacher_target_log_prob"][:, :-1].double(), following, rtol=0, atol=1e-5)
    identity = CacheIdentity.of(cache.shuffle(seed=1).select([1, 3]))
    assert identity is not None
    assert (identity.top_k, identity.vocabulary, identity.sequence_length) == (k, ALL, LENGTH)
    size = sum(path.stat().st_size for path in caches[k].glob("shard-*"))
    assert identity.block_bytes * len(cache) <= size <= identity.block_bytes * len(cache) + 4096


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_with_all_tokens_training_is_that_beside_the_teacher(
    divergence: str, caches: dict[int, Path], blocks: list[dict[str, Any]], tmp_path: Path
) -> None:
    options = {"divergence": divergence, "temperature": 2.0, "ce_weight": 0.2, "gradient_accumulation_steps": 2}
    options |= {"optim": "sgd", "max_grad_norm": 0.0}
    online = trainer(tmp_path, letter_teacher(), blocks, **options)
    offline = trainer(tmp_path, None, load_teacher_cache(caches[ALL]), **options)
    before, expected = offline.evaluate(), online.evaluate()
    for name in ("eval_loss", "eval_kl", "eval_student_perplexity", "eval_teacher_perplexity"):
        assert before[name] == pytest.approx(expected[name], rel=1e-5), name
    online.train()
    offline.train()
    assert logged(offline, "loss") == pytest.approx(logged(online, "loss"), rel=1e-5)
    for ours, theirs in zip(offline.model.parameters(), online.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_with_some_tokens_the_loss_lacks_what_is_said(
    caches: dict[int, Path], blocks: list[dict[str, Any]], tmp_path: Path
) -> None:
    cache = load_teacher_cache(caches[8])
    found, exact = trainer(tmp_path, None, cache).evaluate(), trainer(tmp_path, letter_teacher(), blocks).evaluate()
    with torch.no_grad():
        p, q = (model.double()(cache[:]["input_ids"]).logits.softmax(-1) for model in (letter_teacher(), student()))
    others = torch.ones_like(p, dtype=torch.bool).scatter(-1, cache[:]["teacher_ids"], False)
    r, s = ((others * x).sum(-1, keepdim=True) for x in (p, q))
    lost = torch.where(others, p * ((p / r) / (q / s)).log(), 0.0).sum(-1)[:, :-1].mean().item()
    assert exact["eval_kl"] - found["eval_kl"] == pytest.approx(lost, rel=1e-3)
    assert 0 < lost < 0.5 * exact["eval_kl"]
    for name in ("eval_student_perplexity", "eval_teacher_perplexity"):
        assert found[name] == pytest.approx(exact[name], rel=1e-5)


def test_the_folder_alone_trains_and_a_teacher_beside_it_is_compared(
    caches: dict[int, Path], blocks: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = trainer(tmp_path, None, load_teacher_cache(caches[8]))
    expected.train()
    for teacher, data in ((None, None), (None, blocks), (letter_teacher().bfloat16(), None)):
        arguments = config(tmp_path, max_steps=3, chunk_tokens=50, teacher_cache=str(caches[8]))
        found = DistillationTrainer(student(), teacher, arguments, train_dataset=data)
        found.train()
        assert logged(found, "loss") == logged(expected, "loss")
    other = letter_teacher()
    other.model.layers[0].mlp.up_proj.weight.data.mul_(1.01)
    with pytest.raises(
        ValueError, match=r"The cache is of the teacher Qwen3ForCausalLM, and the teacher given.* other"
    ):
        trainer(tmp_path, other, load_teacher_cache(caches[8]))


def test_what_does_not_fit_is_refused(caches: dict[int, Path], blocks: list[dict[str, Any]], tmp_path: Path) -> None:
    cache = load_teacher_cache(caches[8])
    with pytest.raises(ValueError, match=r"temperature is 2.0 and the teacher is known by its 8 likeliest tokens"):
        trainer(tmp_path, None, cache, temperature=2.0)
    with pytest.raises(ValueError, match="teacher is None and train_dataset has no predictions"):
        trainer(tmp_path, None, blocks)
    with pytest.raises(ValueError, match=r"is the cache of a teacher. Give it as teacher_cache"):
        trainer(tmp_path, caches[8], blocks)
    smaller = Qwen3ForCausalLM(Qwen3Config(**{**letter_teacher().config.to_dict(), "vocab_size": 20}))
    with pytest.raises(ValueError, match=rf"The student has logits for 20 tokens, the cached teacher .* for {ALL}"):
        DistillationTrainer(smaller, None, config(tmp_path), train_dataset=cache)
    unknown = [{name: value for name, value in row.items()} for row in cache.select([0, 1])]
    with pytest.raises(ValueError, match=r"has predictions for token \d+, and the student has logits for 20 tokens"):
        DistillationTrainer(smaller, None, config(tmp_path), train_dataset=unknown)
    exchanged = letter_tokenizer()
    words = json.loads(exchanged.backend_tokenizer.to_str())
    ids = words["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    exchanged = type(exchanged)(tokenizer_object=exchanged.backend_tokenizer.from_str(json.dumps(words)))
    with pytest.raises(ValueError, match="The processing_class gives tokens other ids than that of the cached teacher"):
        DistillationTrainer(student(), None, config(tmp_path), train_dataset=cache, processing_class=exchanged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blocks: [blocks[1], blocks[0], *blocks[2:]], "Block 0 of the text is not that of the cache"),
        (lambda blocks: [*blocks[:4], {"input_ids": blocks[4]["input_ids"][:-1]}], "Block 4 of the text is not"),
        (lambda blocks: [*blocks, blocks[0]], "The cache holds 10 blocks and the text has 11"),
        (lambda blocks: [{"text": "a"}], r"has the columns \['text'\], and teacher_cache puts blocks"),
        (
            lambda blocks: [{**x, "token_weights": x["input_ids"]} for x in blocks],
            r"'token_weights'\], and",
        ),
        (iter, "list_iterator that is read as it comes cannot be compared"),
    ],
)
def test_other_blocks_are_refused(
    change: Callable[..., Any], message: str, caches: dict[int, Path], blocks: list[dict[str, Any]], tmp_path: Path
) -> None:
    arguments = config(tmp_path, teacher_cache=str(caches[8]))
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(student(), None, arguments, train_dataset=change(blocks))


def test_text_that_is_no_rows_is_compared_with_the_cache(
    caches: dict[int, Path], blocks: list[dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    def learned(data: Any, tokens: int | None = None, **more: Any) -> Any:
        arguments = config(tmp_path, teacher_cache=str(caches[8]), tokens=tokens, sequence_length=LENGTH)
        return DistillationTrainer(student(), None, arguments, train_dataset=data, **more).train_dataset

    tokenizer = {"processing_class": letter_tokenizer()}
    for data in (text, str(text), text.read_text()):
        assert len(learned(data, **tokenizer)) == len(blocks)
    assert len(learned(text, 2 * LENGTH, **tokenizer)) == len(learned(None, 2 * LENGTH)) == 2
    assert len(learned(None)) == len(blocks)
    with pytest.raises(ValueError, match="train_dataset holds text, and there is no tokenizer"):
        learned(text)
    with pytest.raises(ValueError, match="is not that of the cache"):
        learned("b" * 10_000 + "\n", **tokenizer)
    with pytest.raises(ValueError, match="teacher is None and eval_dataset has no predictions"):
        learned(None, eval_dataset=text, **tokenizer)


def test_longer_blocks_than_positions_and_missing_devices_are_refused(
    write: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="sequence_length is 4096, and the teacher has 2048 positions"):
        write(tmp_path / "out", sequence_length=4096)
    for name in ("device", "device_map"):
        with pytest.raises(ValueError, match=rf"{name} is 'cuda:99', and this machine has \d+ GPUs?: it must be cpu"):
            write(tmp_path / "out", **{"device": None, name: "cuda:99"})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_cache_goes_on_and_says_so(
    write: Callable[..., Any], caches: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 3 * 3000)
    columns, runs = writing._columns, []

    def interrupted(*args: Any) -> Any:
        runs.append(1)
        if len(runs) == 6:
            raise KeyboardInterrupt
        return columns(*args)

    out = tmp_path / "cache"
    monkeypatch.setattr(writing, "_columns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(out, batch_size=1)
    assert not out.exists()
    for name in (out, tmp_path / "cache.unfinished"):
        with pytest.raises(ValueError, match=r"cache.unfinished is unfinished, with 1 files. Give the same hf-tc"):
            load_teacher_cache(name)
    with pytest.raises(ValueError, match=r"unfinished work with other arguments \(.*top_k: 8 there, 9 now"):
        write(out, top_k=9)
    found = write(out, batch_size=2)  # as memory allows
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert sorted(path.name for path in out.iterdir()) == [*(f"shard-0000{i}.arrow" for i in range(3)), CACHE_FILE]
    assert len(runs) == 6 + 3
    for name, expected in load_teacher_cache(caches[8])[:].items():
        torch.testing.assert_close(found[:][name], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="exists and is not empty"):
        write(out)
    (out / "shard-00001.arrow").unlink()
    with pytest.raises(ValueError, match="holds 6 of 10 blocks: files are missing"):
        load_teacher_cache(out)


@pytest.mark.parametrize(("name", "share"), [("shard-00000.arrow", 0.5), ("shard-00000.arrow", 0), (CACHE_FILE, 0.5)])
def test_a_file_that_was_cut_off_is_named(caches: dict[int, Path], tmp_path: Path, name: str, share: float) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(caches[8], folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=rf"cache/{name} is damaged, perhaps cut off \(.*\. Copy the cache again, or"):
        DistillationTrainer(student(), None, config(tmp_path, teacher_cache=str(folder)))


def test_a_full_disk_keeps_what_is_written(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 3 * 3000)
    replace_file = writing.replace_file

    def full(path: Path, write: Callable[[Path], Any]) -> None:
        if "00002" in path.name:
            path.with_name(f"{path.name}.1.part").write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "replace_file", full)
        with pytest.raises(OSError, match=r"No space is left .*\. 8 of 10 blocks are kept there; make room and give"):
            write(tmp_path / "cache")
    assert not list(tmp_path.rglob("*.part"))
    assert len(write(tmp_path / "cache")) == 10
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(ValueError, match=r"needs 0\.02 MiB, 0\.00 MiB are free there\. Make room"):
        write(tmp_path / "other")


def test_what_cannot_be_cached_is_refused(write: Callable[..., Any], tmp_path: Path) -> None:
    for k in (0, ALL + 1):
        with pytest.raises(ValueError, match=rf"top_k is {k}; it must be between 1 and {ALL}"):
            write(tmp_path / "cache", top_k=k)
    with pytest.raises(ValueError, match="10,000 were asked for"):
        write(tmp_path / "cache", tokens=10_000)
    teacher = copy.deepcopy(letter_teacher())
    teacher.lm_head.weight.data[3] = 1e38
    with pytest.raises(ValueError, match=r"The logits of the Qwen3ForCausalLM .* are NaN or infinite"):
        write(tmp_path / "cache", teacher)
    with pytest.raises(ValueError, match="log probabilities that are NaN or infinite"):  # at some tokens alone
        writing.likeliest(torch.tensor([[0.0, 1.0], [0.0, torch.inf]]), torch.tensor([0, 1]), 1)
    with pytest.raises(ValueError, match=rf"{tmp_path} is no cache of a teacher: it has no teacher_cache.json"):
        load_teacher_cache(tmp_path)
