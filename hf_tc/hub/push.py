# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student's folder goes to the Hub as it is, once it was checked.

What is in it: weights and code, see `hf_tc.modeling.saving`, and the report and the card of `hf_tc.hub.save_extras`.
"""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from hf_tc.hub.folder_checks import CARD_FILE, check_card, check_student_folder, warn_of_other_code
from hf_tc.modeling.saving import check_finite_files, create_repository, upload_folder

# Lines of the card that name the student; a push makes them name the repository.
NAMING_LINES = {
    r'^model_id = ".*"$': 'model_id = "{}"',
    r"^transformers serve .* --trust-remote-code$": "transformers serve {} --trust-remote-code",
}


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> CommitInfo:
    """Uploads a student's folder as it is, after checking that whoever downloads it can load it.

    The usage examples of its model card are made to name the repository.

    Args:
        private, token, options: as in `push_to_hub`: `revision`, `create_pr`, `commit_message`, `commit_description`.

    Raises:
        ValueError: the folder is not a complete student, has weights that are NaN or infinite, or its card has figures
            of another; nothing was uploaded.
    """
    folder = Path(folder)
    check_student_folder(folder)
    check_finite_files(folder)
    check_card(folder)
    warn_of_other_code(folder)
    repo_id = create_repository(repo_id, private, token)
    card = folder / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        for pattern, line in NAMING_LINES.items():
            text = re.sub(pattern, line.format(repo_id), text, count=1, flags=re.MULTILINE)
        card.write_text(text, encoding="utf-8")
    return upload_folder(folder, repo_id, token=token, **options)
