# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc push` refuses a folder that holds no student."""

from pathlib import Path

import pytest
from command_lines import refused


def test_push_refuses_what_is_no_students_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} has no config.json" in refused(capsys, "push", tmp_path, "me/student")
