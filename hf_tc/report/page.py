# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The report of a conversion as Markdown: a page of its own, and the same as part of the model card."""

import re
from collections.abc import Mapping
from importlib.resources import files
from statistics import median
from typing import Any

import jinja2

from hf_tc.report.answers import answers_table
from hf_tc.report.comparison import comparison, how_measured
from hf_tc.report.distillation_section import curve_table, facts_table
from hf_tc.report.records import ERROR, known_by_stage, seconds_in_words, words
from hf_tc.report.summary import is_known, summary, teacher_name

PAGE_FILE = "conversion_report.md"
MANY_LAYERS = 16  # beyond, the table of layers is folded
LAYER_COLUMNS = {
    "layer": "layer",
    "mean_attention_distance": "distance",
    "timescale_tokens": "half-life",
    "beta": "beta",
}


def template(name: str) -> str:
    """The text of a template in model_cards/."""
    return files("hf_tc.model_cards").joinpath(name).read_text(encoding="utf-8")


def report_page(report: dict[str, Any], plots: Mapping[str, str], layer_count: int) -> str:
    """The page `conversion_report.md`; arguments as in `report_sections`."""
    name = teacher_name(report).split("/")[-1] or "a teacher"
    return f"# How {name} became a hybrid\n\n{report_sections(report, plots, layer_count)}\n"


def report_sections(report: dict[str, Any], plots: Mapping[str, str], layer_count: int) -> str:
    """The sections of the report, from model_cards/report.md.

    Args:
        report: `ConversionReport.to_dict()`, or as much of it as is known; "distilled_tokens" and "distilled_steps" of
            a student that was distilled; "changed", see `marked_as_changed`. What is missing is left out.
        plots: file names of the pictures by what they show, see `hf_tc.report.plots`.
        layer_count: layers of the teacher.
    """
    layers, evaluation = report.get("layers") or [], report.get("evaluation")
    runs, answers = report.get("distillations") or [], answers_table(evaluation["figures"]) if evaluation else []
    text = jinja2.Template(template("report.md")).render(
        summary=summary(report, layer_count),
        plots=plots,
        perplexity_table=_perplexity_table(report),
        evaluation_table=_table(*comparison({"student": evaluation["figures"]})) if evaluation else "",
        evaluation_note=how_measured(evaluation) if evaluation else "",
        answers_table=_table(*_heading_and_rows(answers), align="---") if answers else "",
        facts_table=_table(*_heading_and_rows(facts_table(runs))) if runs else "",
        curve_table=_table(*_heading_and_rows(curve_table(runs))) if runs and runs[-1]["curve"] else "",
        layer_table=_layer_table(layers),
        many_layers=len(layers) if len(layers) > MANY_LAYERS else None,
        heads=_heads(layers),
        selection=_selection(report.get("selection")),
        is_changed=bool(report.get("changed")),
        code=_code(report),
        provenance=_provenance(report),
    )
    # Lines that a template's conditions leave empty; between two items of a list not even one.
    return re.sub(r"(?m)^(- .*)\n\n(?=- )", r"\1\n", re.sub(r"\n{3,}", "\n\n", text)).strip()


def marked_as_changed(report: dict[str, Any]) -> dict[str, Any]:
    """For the page of a student whose weights are not, or not for sure, those that the figures are of."""
    but = ", but for those under Evaluation" if report.get("evaluation") else ""
    return {**report, "changed": f"The figures here are from before{but}."}


def without_figures(report: dict[str, Any], has_page: bool) -> dict[str, Any]:
    """For the card of such a student: what stays true.

    Args:
        has_page: whether the page of the report is beside the card.
    """
    place = f"; those of the conversion are in [{PAGE_FILE}]({PAGE_FILE})" if has_page else ""
    figures = {"layers": [], "perplexity": {}, "perplexity_tokens": 0}
    known = report.get("evaluation")
    told = "The figures here under Evaluation are of it" if known else "This card has no figures of it"
    return {**report, **figures, "changed": f"{told}{place}."}


def _number(value: Any) -> str:
    if not is_known(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def _table(header: list[str], rows: list[list[str]], align: str = "---:") -> str:
    """A table of Markdown; all columns but the first, which is of text, are aligned as `align` says there."""
    lines = [header, ["---"] + [align] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _heading_and_rows(table: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return table[0], table[1:]


def _layer_table(layers: list[dict[str, Any]]) -> str:
    if not layers:
        return ""
    errors = {key: f"error, {words(key.removeprefix(ERROR))}" for key in layers[0] if key.startswith(ERROR)}
    titles = {**LAYER_COLUMNS, **errors, "seconds": "seconds"}
    columns = {key: title for key, title in titles.items() if any(is_known(row.get(key)) for row in layers)}
    return _table(list(columns.values()), [[_number(row.get(key)) for key in columns] for row in layers])


def _perplexity_table(report: dict[str, Any]) -> str:
    known = known_by_stage(report.get("perplexity") or {})
    teacher = known.get("teacher")
    header = ["model", "perplexity"] + ([] if teacher is None else ["times the teacher's"])
    rows = []
    for stage, value in known.items():
        share = [] if teacher is None else [f"{value / teacher:.2f}"]
        rows.append([words(stage), f"{value:,.2f}", *share])
    return _table(header, rows) if rows else ""


def _heads(layers: list[dict[str, Any]]) -> str:
    """The pictures of the heads in words."""
    pairs = [
        (distance, half_life)
        for row in layers
        for distance, half_life in zip(row.get("head_distances", ()), row.get("head_half_lives", ()), strict=True)
    ]
    if not pairs:
        return ""
    distances = [distance for distance, _ in pairs]
    shorter = sum(half_life < distance for distance, half_life in pairs)
    betas = [beta for row in layers for beta in row.get("head_betas", ())]
    return (
        f"Every point is one of {len(pairs):,} heads. Half of them look back further than {_number(median(distances))} "
        f"tokens on average; {shorter / len(pairs):.0%} have a half-life below their mean distance. Half of the heads "
        f"write with a beta above {_number(median(betas))}."
    )


def _selection(selection: dict[str, Any] | None) -> str:
    if not selection:
        return ""
    kept = ", ".join(map(str, selection["retained_layers"])) or "none"
    text = f"Retained: {kept}; policy `{selection['policy']}`."
    if selection.get("ranking"):
        text += (
            f" Scores are {selection.get('score_meaning')}. Finding them took {selection.get('forwards', 0):,} forward "
            f"passes over {selection.get('tokens', 0):,} tokens and {_duration(selection.get('seconds') or 0)}."
        )
    return text


def _code(report: dict[str, Any]) -> str:
    arguments = dict(report.get("arguments") or {})
    if not arguments:
        return ""
    lines = [f"    {teacher_name(report)!r},", *(f"    {name}={value!r}," for name, value in arguments.items())]
    body = "\n".join(lines)
    return f"from hf_tc import HybridGDNForCausalLM\n\nstudent = HybridGDNForCausalLM.from_teacher(\n{body}\n)"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{seconds:.1f} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def _provenance(report: dict[str, Any]) -> dict[str, str]:
    versions, fingerprints = report.get("versions") or {}, report.get("fingerprints") or {}
    seconds = [row.get("seconds") or 0.0 for row in report.get("layers") or []]
    facts = {
        "teacher": teacher_name(report),
        "calibration data": report.get("data"),
        "calibration tokens": report.get("calibration_tokens"),
        "alignment steps per layer": report.get("alignment_steps"),
        "joint alignment steps": report.get("joint_steps") or None,
        "distillation tokens": report.get("distilled_tokens") or None,
        "distillation steps": report.get("distilled_steps") or None,
        "tokens behind the perplexities": report.get("perplexity_tokens") or None,
        "seed": None if report.get("seed") is None else str(report["seed"]),
        "time of all layers": _duration(sum(seconds)) if any(seconds) else None,
        "seconds by stage": seconds_in_words(report.get("stage_seconds") or {}),
        "device": report.get("device"),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "fingerprints": ", ".join(f"{name} `{value}`" for name, value in fingerprints.items()),
    }
    shown = {name: value for name, value in facts.items() if is_known(value) and value != ""}
    return {name: value if isinstance(value, str) else _number(value) for name, value in shown.items()}
