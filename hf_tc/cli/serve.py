# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc serve`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import add_command, console


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "serve",
        run,
        "serve a student over HTTP; further options go to `transformers serve`",
        "student --port 8001",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("serve_arguments", nargs=argparse.REMAINDER, help="options of `transformers serve`")


def run(options: argparse.Namespace) -> None:
    from hf_tc.hub.folder_checks import check_student_folder
    from hf_tc.hub.serving import serve
    from hf_tc.modeling import HybridGDNConfig
    from hf_tc.vllm_plugin.families import why_not_served

    check_student_folder(options.folder)
    if why_not_served(HybridGDNConfig.from_pretrained(options.folder)) is None:
        console.print(
            "This server answers one request after another. For several users take vLLM, which serves this student "
            f"too: pip install 'hf_tc\\[vllm]' && vllm serve {options.folder}",
            soft_wrap=True,
        )
    serve(options.folder, options.serve_arguments)
