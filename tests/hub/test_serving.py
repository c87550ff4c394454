# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve` answers for a student, with hf_tc and without it, in a real server process on loopback."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from optional_packages import needs_extra
from servers import free_port, wait_until_it_answers
from student_folders import BLOCKER, letter_tokenizer, save_student, tiny_report, tiny_student
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.hub.serving import serve

needs_server = needs_extra("serve", "fastapi", "uvicorn", "openai", "pydantic", "requests")
MESSAGES = [{"role": "user", "content": "Where is the lighthouse?"}]
TOKENS = 12
WITH_PLUGIN = "import sys; from hf_tc.hub.serving import serve; serve(sys.argv[1], sys.argv[2:])"
WITHOUT_PLUGIN = (
    "import sys; sys.argv = ['transformers', 'serve', *sys.argv[1:], '--trust-remote-code'];"
    "from transformers.cli.transformers import main; main()"
)


class Server(NamedTuple):
    url: str
    folder: Path


def start(code: str, folder: Path, log: Path, scratch: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    arguments = [str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *options]
    own = {"HF_HOME": str(scratch / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env={**os.environ, **own}, stdout=output, stderr=output
        )
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "student"
    student = tiny_student()
    student.generation_config.do_sample, student.generation_config.temperature = False, None
    save_student(student, path, letter_tokenizer(), tiny_report())
    return path


@pytest.fixture(scope="module", params=["with hf_tc", "without hf_tc"])
def server(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("server")
    if request.param == "with hf_tc":  # and asked for what recurrent layers cannot do
        process, url = start(WITH_PLUGIN, folder, scratch / "log", scratch, "--continuous-batching")
    else:
        process, url = start(BLOCKER + WITHOUT_PLUGIN, folder, scratch / "log", scratch)
    try:
        wait_until_it_answers(process, url, scratch / "log")
        yield Server(url, folder)
    finally:
        process.terminate()
        process.wait(timeout=30)


def post(server: Server, **request: Any) -> Any:
    body = json.dumps({"model": str(server.folder), "messages": MESSAGES, "max_tokens": TOKENS, **request}).encode()
    headers = {"Content-Type": "application/json"}
    return urllib.request.urlopen(
        urllib.request.Request(f"{server.url}/v1/chat/completions", body, headers), timeout=120
    )


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    """What the student itself answers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@needs_server
def test_chat_completion_is_the_students_answer(server: Server, expected: str) -> None:
    with post(server) as response:
        answer = json.load(response)
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["usage"]["completion_tokens"] == TOKENS


@needs_server
def test_streamed_answer_is_the_same(server: Server, expected: str) -> None:
    with post(server, stream=True) as response:
        lines = [line.decode().strip() for line in response]
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == expected
    assert sum(bool(piece) for piece in pieces) > 1


@needs_server
def test_openai_client_can_talk_to_it(server: Server, expected: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=str(server.folder), messages=MESSAGES, max_tokens=TOKENS)
    assert answer.choices[0].message.content == expected


@needs_server
def test_transformers_chat_can_talk_to_it(server: Server, expected: str, tmp_path: Path) -> None:
    code = "from transformers.cli.transformers import app; app()"
    arguments = [str(server.folder), server.url, f"max_new_tokens={TOKENS}", "do_sample=False", "--user", "reader"]
    result = subprocess.run(
        [sys.executable, "-c", code, "chat", *arguments],
        input="Where is the lighthouse?\n!exit\n!exit\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": server.url,
            "COLUMNS": "200",
            "TERM": "dumb",
            "NO_COLOR": "1",
        },
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    assert "".join(expected.split()) in "".join(result.stdout.split())


@needs_server
def test_a_folder_that_is_no_student_is_refused_before_the_server_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        serve(tmp_path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_tc.hub.serving.is_serve_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'hf_tc\[serve\]'"):
        serve(tmp_path)
