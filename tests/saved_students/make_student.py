# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Saves a tiny random student and what it says to a folder: `python make_student.py qwen3 FOLDER`, see README.md."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "testing"))
from student_folders import VOCABULARY, letter_tokenizer, save_student

SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "qwen3": {"head_dim": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
}
CALIBRATION = {
    "teacher": "some-org/some-teacher",
    "linear_layers": [0],
    "retained_layers": [1],
    "calibration_tokens": 65536,
    "perplexity": {"teacher": 20.0, "closed_form": 30.0, "aligned": 25.0},
    "perplexity_tokens": 4096,
}


def main(family: str, folder: Path) -> None:
    config = HybridGDNConfig(text_config=AutoConfig.for_model(family, **SIZES, **FAMILIES[family]))
    config.layer_types = ["linear_attention", config.layer_types[1]]
    config.calibration = CALIBRATION
    torch.manual_seed(5)
    student = HybridGDNForCausalLM(config).eval()
    with torch.no_grad():
        for _, parameter in sorted(student.named_parameters()):
            parameter.add_(0.6 * torch.randn_like(parameter))
    save_student(student, folder, letter_tokenizer(), repo_id="some-user/some-student")
    ids = torch.randint(3, len(VOCABULARY), (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, :5] = mask[1, :5] = 0
    with torch.no_grad():
        logits = student(ids, attention_mask=mask).logits
        tokens = student.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    expected = {"input_ids": ids, "attention_mask": mask, "logits": logits, "tokens": tokens}
    save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
