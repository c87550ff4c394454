# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Modules by the names that they had before they moved into folders: importing one says the new name, once.

Goes with release 0.2. Five old modules have the name of a present folder, `teachers`, `hub`, `report`, `evaluation`
and `alignment`; what they held is found by the folder's own files. A sixth, `refresh`, has that of a public function,
which the module would take the place of: `hf_tc.refresh` is the function alone.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {  # inside hf_tc
    "adapters": "teachers.adapters",
    "families": "teachers.families",
    "family_parity": "teachers.parity",
    "build_student": "teachers.new_student",
    "model_loading": "teachers.loading",
    "placement": "teachers.offloading",
    "positionless_layers": "teachers.nope_layers",
    "tokenizer_checks": "teachers.vocabulary",
    "calibration.conversations": "data.conversations",
    "calibration.corrupted_text": "data.corrupted_sequences",
    "calibration.data": "data.token_blocks",
    "calibration.row_files": "data.row_files",
    "calibration.text_files": "data.text_files",
    "calibration.text_or_path": "data.text_or_path",
    "calibration.text_overlap": "data.contamination",
    "calibration.initialize": "calibration.solve_order",
    "calibration.read_outs": "calibration.recurrence_outputs",
    "joint_alignment": "alignment.joint",
    "convert_layers": "conversion.run",
    "fit_layer": "conversion.fit_layer",
    "conversion_checkpoint": "conversion.checkpoint",
    "conversion_settings": "config",
    "conversion_plan": "planning.plan",
    "conversion_plan_table": "planning.table",
    "conversion_memory": "memory.estimate",
    "conversion_time": "planning.time",
    "cache_size": "memory.cache_size",
    "conversion_plots": "report.plots",
    "plot_style": "report.plot_style",
    "report_page": "report.page",
    "layer_selection.selection": "selection",
    "layer_selection.selection_plot": "report.selection_plot",
    "distillation.lm_head": "evaluation.lm_head",
    "distillation.losses": "evaluation.kd_loss",
    "weight_decay": "distillation.weight_decay",
    "student_folder": "hub.folder_checks",
    "companions": "hub.save_extras",
    "saved_code": "hub.saved_code",
    "registration": "hub.registration",
    "serving": "hub.serving",
    "recorded_arguments": "resume.arguments",
    "fingerprint": "resume.fingerprint",
    "output_folder": "resume.unfinished_work",
    "demo": "cli.demo_report",
}


class MovedModules(MetaPathFinder):
    """Finds a module that has another name now; last among the finders, so that nothing present is looked for here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = MOVED.get(fullname.removeprefix("hf_tc.")) if fullname.startswith("hf_tc.") else None
        return None if new is None else ModuleSpec(fullname, _Alias(f"hf_tc.{new}"))


class _Alias(Loader):
    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is now {self.new}; the old name goes with hf_tc 0.2.", FutureWarning, stacklevel=2)
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(self.new)


sys.meta_path.append(MovedModules())
