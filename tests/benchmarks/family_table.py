# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Prints, as Markdown, each reviewed family's maximum differences in each check, and what recurrent layers preserve.

python tests/benchmarks/family_table.py [FAMILY ...]

Run it against a new release of Transformers: what broke says FAILED in its row, and the exit status is 1.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

from hf_tc.teachers.families import REVIEWED_FAMILIES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "testing"))

from family_checks import allowed_difference, exists, family_differences


def main() -> int:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU\n")
    rows = {family: measure(family) for family in sys.argv[1:] or sorted(REVIEWED_FAMILIES)}
    checks = list(next(row for row in rows.values() if not isinstance(row, str)))
    print("| family | " + " | ".join(checks) + " | attention |")
    print("|---" * (len(checks) + 2) + "|")
    failed = 0
    for family, row in rows.items():
        if isinstance(row, str):
            cells = [row, *[""] * (len(checks) - 1)]
        else:
            cells = [_cell(check, value) for check, value in row.items()]
        failed += any("FAILED" in cell for cell in cells)
        print(f"| {family} | {' | '.join(cells)} | {REVIEWED_FAMILIES.get(family, 'not reviewed')} |")
    print(f"\n{len(rows)} families, {failed} failed")
    return int(failed > 0)


def measure(family: str) -> dict[str, float] | str:
    """Differences of each check, or why there are none."""
    if not exists(family):
        return "not in this Transformers"
    try:
        with tempfile.TemporaryDirectory() as folder:
            return family_differences(family, Path(folder))
    except Exception as error:  # whatever the library changed belongs in the table
        return f"FAILED: {type(error).__name__}: {str(error).splitlines()[0]}"


def _cell(check: str, value: float) -> str:
    figure = "0" if value == 0 else f"{value:.0e}"
    return figure if value <= allowed_difference(check) else f"FAILED: {figure}"


if __name__ == "__main__":
    sys.exit(main())
