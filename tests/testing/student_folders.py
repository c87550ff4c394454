# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tiny students with a tokenizer, saved to a folder, and Python processes in which hf_tc is or is not installed."""

import json
import os
import string
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from fresh_processes import run_code
from safetensors.torch import load_file
from tiny_sizes import SIZES
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config

from hf_tc.hub.folder_checks import check_student_folder
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.saving import code_files
from hf_tc.report.records import ConversionReport, LayerReport
from hf_tc.resume.fingerprint import weights_fingerprint

PROMPT_IDS = [[5, 17, 50, 3, 44, 9, 20, 61]]
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = [*SPECIAL_TOKENS, *string.ascii_letters, *" .,:?\n"]  # whatever a student says can be printed and streamed
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Makes `import hf_tc` fail as where it was never installed.
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_tc":
            raise ModuleNotFoundError("No module named 'hf_tc'", name="hf_tc")
sys.meta_path.insert(0, Absent())
"""
LOGITS = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code={trust}, dtype="auto")
backbone, info = AutoModel.from_pretrained(sys.argv[1], trust_remote_code={trust}, output_loading_info=True)
assert not info["missing_keys"], info
head = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code={trust}, pad_token_id=0)
names = [type(part).__name__ for part in (backbone, head)]
ids = torch.tensor({ids})
torch.save((type(model).__module__, names, model(ids).logits), sys.argv[2])
"""
MODULES = tempfile.TemporaryDirectory()  # where processes put remote code, instead of the home directory


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter."""
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(VOCABULARY)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def tiny_student(seed: int = 0) -> HybridGDNForCausalLM:
    """Random and perturbed; layers 1 and 2 of 4 are recurrent."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(VOCABULARY), "intermediate_size": 64, "num_hidden_layers": 4}
    teacher = Qwen3Config(**{**SIZES, **sizes}, tie_word_embeddings=True)
    kinds = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    student = HybridGDNForCausalLM(HybridGDNConfig(text_config=teacher, layer_types=kinds))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.6 * torch.randn_like(parameter))
    student.generation_config.temperature = 0.75
    student.generation_config.do_sample = True
    return student.eval()


def tiny_report() -> ConversionReport:
    rows = [
        LayerReport(
            layer=layer,
            mean_attention_distance=31.0,
            attention_entropy=2.5,
            timescale_tokens=41.5 + layer,
            beta=0.321,
            value_scale=0.9,
            output_gate=0.5,
            error_copied=0.987,
            error_closed_form=0.543,
            error_aligned=float("nan"),
            seconds=1.5,
        )
        for layer in (1, 2)
    ]
    return ConversionReport(
        teacher="some-org/some-teacher",
        retained_layers=[0, 3],
        linear_layers=[1, 2],
        calibration_tokens=65536,
        alignment_steps=0,
        seed=7,
        data="a sample of public-domain books",
        versions={"torch": "2.13.0"},
        layers=rows,
        perplexity={"teacher": 20.0, "copied": 700.0, "closed_form": 30.0, "aligned": None},
        perplexity_tokens=4096,
        seconds=12.0,
    )


def logits_of(student: Any) -> torch.Tensor:
    with torch.no_grad():
        return student(torch.tensor(PROMPT_IDS)).logits


def run_python(
    code: str, *arguments: str | Path, with_hf_tc: bool, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process; stdin is closed, so that a question about remote code cannot wait for an answer."""
    prefix = "import hf_tc\n" if with_hf_tc else BLOCKER
    return run_code(prefix + code, *arguments, **{"HF_MODULES_CACHE": MODULES.name, **environment})


def load_in_fresh_process(
    folder: str | Path, scratch: Path, with_hf_tc: bool, **environment: str
) -> tuple[str, torch.Tensor]:
    """(module of the loaded class, logits) from a process of its own; backbone and classifier load too."""
    output = scratch / "logits.pt"
    code = LOGITS.format(trust=not with_hf_tc, ids=json.dumps(PROMPT_IDS))
    result = run_python(code, folder, output, with_hf_tc=with_hf_tc, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    module, names, logits = torch.load(output)
    assert names == ["HybridGDNModel", "HybridGDNForSequenceClassification"]
    return module, logits


def assert_same_student(folder: Path, expected: Path) -> None:
    """Same code, weights and configuration, and so the same student."""
    check_student_folder(folder)
    for source in code_files():
        assert (folder / source.name).read_bytes() == source.read_bytes() == (expected / source.name).read_bytes()
    config, expected_config = (json.loads((path / "config.json").read_text()) for path in (folder, expected))
    for loaded in (config, expected_config):
        loaded["text_config"].pop("dtype", None)  # loading sets it
    assert config == expected_config
    weights, expected_weights = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())


def save_student(
    student: PreTrainedModel,
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    report: ConversionReport | None = None,
    **kwargs: Any,
) -> None:
    """Saves a student with what belongs to it; later saves of the same object include it as well.

    Args:
        tokenizer, report: default to `student.tokenizer` and `student.conversion_report`, which conversion sets. A
            report that does not say which weights its figures are of is taken to be of these.
        kwargs: of `save_pretrained`, such as `max_shard_size`.
    """
    if tokenizer is not None:
        student.tokenizer = tokenizer
    if report is not None:
        if not report.student_weights:
            report.student_weights = weights_fingerprint(student.state_dict().values())
        student.conversion_report = report
    student.save_pretrained(folder, **kwargs)
