# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve` for students, without the flag for remote code."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from transformers.utils.import_utils import is_serve_available

from hf_tc.hub.folder_checks import check_student_folder, warn_of_other_code
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.serve_support import MODEL_MANAGER, make_servable


def serve(folder: str | Path, extra_args: Sequence[str] = ()) -> None:
    """Serves a student over HTTP by Transformers' own `serve` command, until interrupted.

    Args:
        folder: a student's folder.
        extra_args: further arguments of `transformers serve`, such as `["--port", "8001", "--device", "cpu"]`.

    Raises:
        ImportError: the packages that serving needs are not installed.
        ValueError: the folder is not a complete student.
        SystemExit: as Transformers' command ends.
    """
    if not is_serve_available():
        raise ImportError("Serving needs further packages: pip install 'hf_tc[serve]'")
    check_student_folder(folder)
    warn_of_other_code(folder)
    # The first executes the library once more, so the class must be made known after it; see make_servable.
    for module in ("transformers.processing_utils", MODEL_MANAGER):
        import_module(module)
    make_servable(HybridGDNForCausalLM.__name__, HybridGDNForCausalLM)
    from transformers.cli.transformers import app

    app(["serve", str(folder), *extra_args], prog_name="transformers")
