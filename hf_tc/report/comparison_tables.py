# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Evaluations side by side on the console, in several tables below each other where one would be too wide.

Only the names of models are folded. What is measured and its figures stay whole, in a narrow window too.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_tc.report.comparison import comparison, note_of

Evaluations = Mapping[str, Mapping[str, Any]]
NARROWEST_NAME = 12  # columns that a name is folded into; no other heading is longer
BETWEEN, AT_THE_EDGES = 2, 2  # columns of the console beside cells


class Cells(NamedTuple):
    """A table before it is drawn; lines of a heading are apart by "\\n"."""

    heading: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, evaluations: Evaluations, name_width: int) -> "Cells":
        heading, rows = comparison(evaluations)
        return cls([folded(name, name_width) for name in heading], rows)

    @property
    def width(self) -> int:
        """Columns of the console."""
        texts = zip(self.heading, *self.rows, strict=True)
        widths = [max(cell_len(line) for text in column for line in text.split("\n")) for column in texts]
        return sum(widths) + BETWEEN * (len(widths) - 1) + AT_THE_EDGES

    def table(self) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, width=self.width)
        for position, name in enumerate(self.heading):
            justify: Any = "right" if position else "left"
            table.add_column(Text(name), justify=justify, no_wrap=True, vertical="bottom")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def print_comparison(evaluations: Evaluations, console: Console) -> None:
    """Shows `comparison`, and below it what it is of; arguments as there."""
    for cells in fitted(evaluations, console.width):
        console.print(cells.table(), crop=False)
    console.print(note_of(evaluations), highlight=False)


def fitted(evaluations: Evaluations, width: int) -> list[Cells]:
    """The tables, each with as many models as fit into that many columns, but one at least, which may be wider."""
    groups: list[Evaluations] = []
    for name, evaluation in evaluations.items():
        together = {**groups[-1], name: evaluation} if groups else {}
        if together and Cells.of(together, NARROWEST_NAME).width <= width:
            groups[-1] = together
        else:
            groups.append({name: evaluation})
    return [_with_widest_names(group, width) for group in groups]


def _with_widest_names(evaluations: Evaluations, width: int) -> Cells:
    longest = max(map(cell_len, evaluations))
    for name_width in range(longest, NARROWEST_NAME, -1):
        if (cells := Cells.of(evaluations, name_width)).width <= width:
            return cells
    return Cells.of(evaluations, NARROWEST_NAME)


def folded(name: str, width: int) -> str:
    """A name in lines of at most so many columns, which end at a separator where there is one."""
    lines = [""]
    for word in re.findall(r"[^-_/ ]*[-_/ ]|[^-_/ ]+", name):
        for part in chop_cells(word, width):
            if cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(lines)
