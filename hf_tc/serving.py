# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve` for students, without the flag for remote code."""

from collections.abc import Sequence
from pathlib import Path

from transformers.utils.import_utils import is_serve_available

from .hub import check_student_folder
from .modeling import HybridGDNForCausalLM
from .modeling.serve_support import make_servable


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
    # Not at the top: the first executes the library once more, and all take the server's packages for granted.
    import transformers.processing_utils
    from transformers.cli.serving import model_manager
    from transformers.cli.transformers import app

    make_servable(HybridGDNForCausalLM.__name__, HybridGDNForCausalLM)
    app(["serve", str(folder), *extra_args], prog_name="transformers")
