# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What is read beside a student's weights: which code it was saved with, and the report of its conversion."""

import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file, logging

from hf_tc.hub.saved_code import SavedCode
from hf_tc.modeling import HybridGDNPreTrainedModel
from hf_tc.report import REPORT_FILE

logger = logging.get_logger(__name__)

# Of `from_pretrained`: where on the Hub.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "_commit_hash")
# What the model itself was loaded without must not keep it from being loaded.
NOT_NEEDED = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


def load_extras(student: HybridGDNPreTrainedModel, source: str | os.PathLike[str], options: dict[str, Any]) -> None:
    """Gives a student that was loaded from a folder or the Hub the report that is there; `from_pretrained` calls it.

    Args:
        options: of `from_pretrained`. What concerns the Hub is used.
    """
    folder = Path(source, options.get("subfolder") or "")
    warning = SavedCode.of_config(vars(student.config), folder, str(source)).warning
    if warning is not None:
        logger.warning_once(warning)
    where = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    found = cached_file(source, REPORT_FILE, **where, **NOT_NEEDED)
    if found is None:
        return
    from hf_tc.report.records import ConversionReport  # with its tables, which few students need

    try:
        student.conversion_report = ConversionReport.load(Path(found).parent)
    except ValueError as error:  # a student is of use without
        logger.warning(str(error))
