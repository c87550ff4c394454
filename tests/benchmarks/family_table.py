# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Prints, as Markdown, each reviewed family's maximum differences in each check, and what its recurrent layers carry.

python tests/benchmarks/family_table.py [FAMILY ...]
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

from hf_tc.teachers import REVIEWED_FAMILIES

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from family_checks import exists, family_differences


def main() -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU\n")
    header_printed = False
    for family in sys.argv[1:] or sorted(REVIEWED_FAMILIES):
        if not exists(family):
            print(f"| {family} | not in this Transformers |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            differences = family_differences(family, Path(folder))
        if not header_printed:
            print("| family | " + " | ".join(differences) + " | attention |")
            print("|---" * (len(differences) + 2) + "|")
            header_printed = True
        figures = " | ".join("0" if value == 0 else f"{value:.0e}" for value in differences.values())
        print(f"| {family} | {figures} | {REVIEWED_FAMILIES[family]} |", flush=True)


if __name__ == "__main__":
    main()
