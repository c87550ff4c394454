# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The students in saved_students/, put together as they were saved."""

import shutil
from pathlib import Path

SAVED = Path(__file__).parents[1] / "saved_students"
EARLIER = sorted(path.name for path in SAVED.glob("transformers_*"))
EXPECTED_FILE = "expected.safetensors"
# Arguments: folder, expected values, for each load whether the folder's code may run. Prints modules of the classes.
CHECK = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
expected = load_file(sys.argv[2])
inputs = {name: expected[name] for name in ("input_ids", "attention_mask")}
for trust in sys.argv[3:]:
    student = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=trust == "trust")
    with torch.no_grad():
        torch.testing.assert_close(student(**inputs).logits, expected["logits"], rtol=1e-4, atol=1e-4)
    tokens = student.generate(**inputs, max_new_tokens=24, do_sample=False)
    assert torch.equal(tokens, expected["tokens"]), (tokens, expected["tokens"])
    print(type(student).__module__)
"""


def earlier_student(name: str, folder: Path) -> Path:
    """A student as an earlier release saved it, in a new folder."""
    shutil.copytree(SAVED / name, folder, ignore=shutil.ignore_patterns(EXPECTED_FILE))
    shutil.copytree(SAVED / "code", folder, dirs_exist_ok=True)
    return folder


def expected_of(name: str) -> Path:
    return SAVED / name / EXPECTED_FILE
