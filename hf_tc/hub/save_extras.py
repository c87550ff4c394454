# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What is saved beside a student's weights: the report of its conversion, and the model card.

Both hold to the weights that the figures were measured on. However a student was saved and whatever became of it, its
card has figures of the weights beside it or none.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_tc.hub.folder_checks import CARD_FILE, saved_weights_fingerprint
from hf_tc.hub.model_card import CARD_MARK, render_card
from hf_tc.modeling import HybridGDNPreTrainedModel
from hf_tc.report import REPORT_FILE
from hf_tc.report.page import PAGE_FILE, marked_as_changed, report_page, without_figures
from hf_tc.report.plots import PICTURES, picture_file, save_conversion_plots
from hf_tc.report.records import HELD_OUT_FILE, LOG_FILE
from hf_tc.resume.fingerprint import same_weights


def save_extras(student: HybridGDNPreTrainedModel, folder: Path, repo_id: str) -> None:
    """Writes the conversion report with its page and pictures, if the student has one, and the model card;
    `save_pretrained` calls it.

    The card has figures of the weights in the folder or none: where the weights are not those that the report is of,
    because the student was trained on, merged or quantised, card and page say so and only the page has the figures. A
    copy in another dtype or in other shards is the same student; see `weights_fingerprint`.

    Files of another student's report are removed. A card that hf_tc did not write is left as it is. The card is that of
    a language model, so a classifier or a backbone gets none.
    """
    report, known, plots = student.conversion_report, dict(student.config.calibration or {}), {}
    known |= {} if report is None else report.to_dict()
    has_figures = bool(known.get("layers") or known.get("perplexity"))
    has_later = known.get("evaluation") or known.get("distillations")
    saved = saved_weights_fingerprint(folder) if has_figures or has_later else None
    is_changed = has_figures and not same_weights(known.get("student_weights"), saved)
    known |= later_figures(known, saved, is_changed)
    if report is None:
        remove_report(folder)
    else:
        report.save(folder)
        plots = save_conversion_plots(replace(report, distillations=known["distillations"]), folder)
        page = report_page(marked_as_changed(known) if is_changed else known, plots, student.config.num_hidden_layers)
        (folder / PAGE_FILE).write_text(page, encoding="utf-8")
    path = folder / CARD_FILE
    if not student.can_generate() or (path.exists() and CARD_MARK not in path.read_text(encoding="utf-8")):
        return
    if is_changed:
        known = without_figures(known, has_page=report is not None)
        # About the teacher, and about these weights.
        plots = {name: file for name, file in plots.items() if name in ("selection", "distillation")}
    card = render_card(student.config, known, repo_id, student.model_tags or [], plots)
    path.write_text(card, encoding="utf-8")


def later_figures(known: dict[str, Any], saved: dict[str, str] | None, is_changed: bool) -> dict[str, Any]:
    """Of what was measured after the conversion, the evaluation and the curve of the last training as far as they are
    of the saved weights; what was trained is told in any case.

    "trained" has the presets of `hf_tc.config.TRAINS` that made the saved weights of those of the conversion, or None
    where that is not known: they were changed since, or by runs without a record, such as under FSDP.
    """
    evaluation, runs = known.get("evaluation"), list(known.get("distillations") or [])
    if evaluation and not same_weights(evaluation["student_weights"], saved):
        evaluation = None
    is_last = bool(runs) and same_weights(runs[-1].get("student_weights"), saved)
    if runs and not is_last:
        runs[-1] = {**runs[-1], "curve": []}
    steps = known.get("distilled_steps") or 0
    are_told = steps == sum(run["steps"] for run in runs) and (is_last or not (steps or is_changed))
    trained = [run["trains"] for run in runs] if are_told else None
    return {"evaluation": evaluation, "distillations": runs, "trained": trained}


def remove_report(folder: Path) -> None:
    """Removes a report with its page and pictures."""
    for name in (REPORT_FILE, LOG_FILE, HELD_OUT_FILE, PAGE_FILE, *map(picture_file, PICTURES)):
        (folder / name).unlink(missing_ok=True)
