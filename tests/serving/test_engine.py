# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM does around a student: compiled graphs, chat, streaming, a crowd with too little memory, cached prefixes,
a restart on two ranks, adapters."""

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import token_ids
from transformers import AutoTokenizer
from vllm_server import EAGER, Answer, Server, expected_answer, save_tiny_student, serving

from hf_tc.modeling import HybridGDNForCausalLM

pytest.importorskip("vllm")
pytestmark = pytest.mark.serving

MESSAGES = [{"role": "user", "content": "Where is the lighthouse?"}]
REQUESTS, PROMPTS, TOKENS = 300, 30, 20
# 16 sequences at once, of which these blocks do not hold all: vLLM takes some back and begins them anew.
SHORT_OF_MEMORY = ("--max-num-seqs", "16", "--num-gpu-blocks-override", "22", "--enable-prefix-caching")


class Served(NamedTuple):
    student: HybridGDNForCausalLM
    folder: Path
    server: Server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    scratch = tmp_path_factory.mktemp("engine")
    student = save_tiny_student("qwen3", scratch / "student")
    with serving(scratch / "student", scratch, *SHORT_OF_MEMORY) as server:
        yield Served(student, scratch / "student", server)


@pytest.fixture(scope="module")
def expected(served: Served) -> list[Answer]:
    return [expected_answer(served.student, prompt, TOKENS) for prompt in prompts()]


def prompts() -> list[list[int]]:
    """Of 20 to 165 tokens; the first 20 are the same in all."""
    begin = token_ids(20, seed=0).tolist()
    return [begin + token_ids(5 * index, seed=index).tolist() for index in range(PROMPTS)]


def metric(server: Server, name: str) -> float:
    """The sum of one of vLLM's counters."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def same(answer: Answer, expected: Answer) -> bool:
    return answer.tokens == expected.tokens and answer.log_probabilities == pytest.approx(
        expected.log_probabilities, abs=1e-4
    )


def test_nothing_is_lost_or_wrong_under_load(served: Served, expected: list[Answer]) -> None:
    server, texts = served.server, prompts()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda index: server.complete(texts[index % PROMPTS], TOKENS), range(REQUESTS)))
    wrong = [index for index, answer in enumerate(answers) if not same(answer, expected[index % PROMPTS])]
    assert len(answers) == REQUESTS
    assert not wrong
    assert metric(server, "vllm:num_preemptions_total") > 0


def test_what_was_read_before_is_not_read_again(served: Served, expected: list[Answer]) -> None:
    before = metric(served.server, "vllm:prefix_cache_hits_total")
    for _ in range(2):
        assert same(served.server.complete(prompts()[-1], TOKENS), expected[-1])
    assert metric(served.server, "vllm:prefix_cache_hits_total") > before


def chat_answer(served: Served) -> str:
    tokenizer = AutoTokenizer.from_pretrained(served.folder)
    inputs = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = served.student.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_chat_completion_is_the_students_answer(served: Served) -> None:
    with served.server.post("chat/completions", messages=MESSAGES, max_tokens=TOKENS, ignore_eos=True) as response:
        answer = json.load(response)
    assert answer["choices"][0]["message"]["content"] == chat_answer(served)


def test_streamed_chat_is_the_same_in_pieces(served: Served) -> None:
    with served.server.post(
        "chat/completions", messages=MESSAGES, max_tokens=TOKENS, ignore_eos=True, stream=True
    ) as response:
        lines = [line.decode().strip() for line in response]
    chunks: list[Any] = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == chat_answer(served)
    assert sum(bool(piece) for piece in pieces) > 1


def test_restarted_on_two_ranks_it_says_the_same(
    served: Served, expected: list[Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with serving(served.folder, tmp_path, *EAGER, "--tensor-parallel-size", "2") as server:
        answers = [server.complete(prompt, TOKENS) for prompt in prompts()[:5]]
    assert all(map(same, answers, expected[:5]))


def test_an_adapter_is_served_beside_the_student(served: Served, expected: list[Answer], tmp_path: Path) -> None:
    student = HybridGDNForCausalLM.from_pretrained(served.folder)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "g_proj"]
    adapted: Any = get_peft_model(student, LoraConfig(r=8, target_modules=names))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    prompt = prompts()[3]
    merged = expected_answer(adapted.merge_and_unload().eval(), prompt, TOKENS)
    assert merged.tokens != expected[3].tokens
    options = ("--enable-lora", "--lora-modules", f"adapter={tmp_path / 'adapter'}")
    with serving(served.folder, tmp_path, *EAGER, *options) as server:
        assert same(server.complete(prompt, TOKENS, model="adapter"), merged)
        assert same(server.complete(prompt, TOKENS), expected[3])
