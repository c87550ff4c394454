# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What `gpu_engine.py` asks of one engine, vLLM or Transformers, in a process of its own."""

import copy
import itertools
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hf_tc  # noqa: F401, registers students
from hf_tc.data.token_blocks import read_documents, token_blocks
from tests.benchmarks.serving_distance import read_by_transformers

PROMPTS, LONGEST_PROMPT, NEW = 32, 600, 32
WRITTEN = 128  # tokens a request whose speed is measured
BLOCKS, BLOCK_LENGTH, READ = 16, 512, 128  # of the text whose log probabilities are compared; READ at the end of each
AT_ONCE, TOKENS_AT_ONCE = 128, 2**18  # requests whose speed is measured: the fewer of both
CROWDED = {"max_num_batched_tokens": 512, "max_num_seqs": 16, "cache_gib": 2}
ROOMY = {"max_num_batched_tokens": 8192, "max_num_seqs": AT_ONCE, "cache_gib": 10}


class Job(NamedTuple):
    """One engine, and the parts asked of it. `settings`: what vLLM is given besides."""

    engine: str
    model: str
    dtype: str
    parts: tuple[str, ...]
    settings: dict[str, Any] = {}

    @property
    def name(self) -> str:
        eager = ", eager" if self.settings.get("enforce_eager") else ""
        return f"{self.engine}, {self.model}, {self.dtype}{eager}"


class Texts(NamedTuple):
    """Prompts of 1 to `LONGEST_PROMPT` tokens; blocks `[BLOCKS, BLOCK_LENGTH]`; for each length rows `[N, length]`."""

    prompts: list[list[int]]
    blocks: Tensor
    rows: dict[int, Tensor]


def cut(text: Path, folder: str, lengths: list[int]) -> Texts:
    """Of a text in the model's tokens; lengths beyond its positions are cut down to them."""
    tokens = token_blocks(
        read_documents([text]), AutoTokenizer.from_pretrained(folder), BLOCK_LENGTH, TOKENS_AT_ONCE
    ).flatten()
    steps = range(PROMPTS)
    sizes = [round(LONGEST_PROMPT ** (step / (PROMPTS - 1))) for step in steps]
    order = [sizes[step * 13 % PROMPTS] for step in steps]  # long and short ones beside each other
    prompts = [tokens[step * LONGEST_PROMPT :][:size].tolist() for step, size in zip(steps, order, strict=True)]
    longest = AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings
    rows = {}
    for length in sorted({min(length, longest) for length in lengths}):
        count = min(AT_ONCE, len(tokens) // length)
        rows[length] = tokens[: count * length].view(count, length)
    return Texts(prompts, tokens[: BLOCKS * BLOCK_LENGTH].view(BLOCKS, BLOCK_LENGTH), rows)


def run(job: Job, folder: str, texts: Texts, ranks: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The results of the parts by their names, and how those failed that did."""
    results, errors = {}, {}
    try:
        engine = InVllm(folder, job, texts, ranks) if job.engine == "vLLM" else InTransformers(folder, job.dtype, texts)
    except Exception:
        return {}, {"start": traceback.format_exc()}
    for part in job.parts:
        try:
            results[part] = getattr(engine, part)()
        except Exception:
            errors[part] = traceback.format_exc()
    return results, errors


class InTransformers:
    def __init__(self, folder: str, dtype: str, texts: Texts) -> None:
        self.folder, self.dtype, self.texts = folder, dtype, texts
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to("cuda").eval()

    @torch.no_grad()
    def tokens(self) -> list[list[int]]:
        written = []
        for prompt in self.texts.prompts:
            ids = torch.tensor([prompt], device="cuda")
            options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
            written.append(self.model.generate(ids, **options)[0, len(prompt) :].tolist())
        return written

    def distance(self) -> list[list[float]]:
        """Log probabilities `[BLOCKS, READ]` of the last tokens of the blocks."""
        return read_by_transformers(self.folder, self.dtype, "cuda", self.texts.blocks[None], READ)[0].tolist()

    @torch.no_grad()
    def margins(self, own: list[list[int]], others: list[list[int]]) -> list[tuple[int, int, float]]:
        """Of each prompt after which two continuations part: its length, after how many tokens, and by how many nats
        the model prefers its own next token to the other's."""
        found = []
        for prompt, a, b in zip(self.texts.prompts, own, others, strict=True):
            if a != b:
                same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=True)))
                logits = self.model(torch.tensor([prompt + a[:same]], device="cuda")).logits[0, -1].float()
                found.append((len(prompt), same, float(logits[a[same]] - logits[b[same]])))
        return found


class InVllm:
    def __init__(self, folder: str, job: Job, texts: Texts, ranks: int) -> None:
        from vllm import LLM

        settings = dict(job.settings)
        self.texts, self.cache_bytes = texts, settings.pop("cache_gib") * 2**30
        start = time.perf_counter()
        self.llm = LLM(
            folder,
            dtype=job.dtype,
            max_model_len=max(max(texts.rows), LONGEST_PROMPT + NEW),
            attention_backend="FLASH_ATTN",
            gpu_memory_utilization=0.1,  # only asked to be free, where the cache's size is given
            kv_cache_memory_bytes=self.cache_bytes,
            compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128]},
            tensor_parallel_size=ranks,
            disable_custom_all_reduce=True,
            **settings,
        )
        self.seconds_to_start = time.perf_counter() - start

    def tokens(self) -> list[list[int]]:
        return [list(answer.outputs[0].token_ids) for answer in self.ask(self.texts.prompts, max_tokens=NEW)]

    def distance(self) -> list[list[float]]:
        """As `InTransformers.distance`."""
        rows = self.texts.blocks.tolist()
        answers = self.ask(rows, max_tokens=1, prompt_logprobs=0)
        last = [(answer.prompt_logprobs[-READ:], row[-READ:]) for answer, row in zip(answers, rows, strict=True)]
        return [[scores[token].logprob for scores, token in zip(*pair, strict=True)] for pair in last]

    def speed(self) -> list[dict[str, Any]]:
        return [self.speed_at(length, rows[:, :-WRITTEN].tolist()) for length, rows in self.texts.rows.items()]

    def speed_at(self, length: int, prompts: list[list[int]]) -> dict[str, Any]:
        """Of requests that are `length` tokens long in the end, all at once; the second round of each is timed."""
        seconds = {}
        for new in (1, WRITTEN):
            for _ in range(2):
                start = time.perf_counter()
                self.ask(prompts, max_tokens=new)
                seconds[new] = time.perf_counter() - start
        count, read, written = len(prompts), sum(map(len, prompts)), len(prompts) * WRITTEN
        return {
            "length": length,
            "requests": count,
            "requests/s": count / seconds[WRITTEN],
            "tokens/s": written / seconds[WRITTEN],
            "read, tokens/s": read / seconds[1],
            "written, tokens/s": (written - count) / (seconds[WRITTEN] - seconds[1]),
            "cache bytes a token": round(self.bytes_of_a_sequence(length) / length),
            "seconds to start": self.seconds_to_start,
        }

    def bytes_of_a_sequence(self, length: int) -> float:
        """By vLLM's own count of how many sequences of that length its cache has room for."""
        from vllm.v1.core.kv_cache_utils import get_max_concurrency_for_kv_cache_config

        engine = self.llm.llm_engine
        config = copy.copy(engine.vllm_config)
        config.model_config = copy.copy(config.model_config)
        config.model_config.max_model_len = length
        plan = engine.engine_core.engine_core.scheduler.kv_cache_config
        return self.cache_bytes / get_max_concurrency_for_kv_cache_config(config, plan)

    def ask(self, prompts: list[list[int]], **options: Any) -> list[Any]:
        """vLLM's answers to prompts of token ids, asked all at once, by the likeliest tokens."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, ignore_eos=True, **options)
        answers: list[Any] = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        return answers
