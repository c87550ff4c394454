# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Hooks by which MkDocs finds this repository's pages, its modules and its commands.

Pages of the repository are at their own paths in the site, so that their links to each other hold in both places.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
SHOWN = ("README.md", ".github/*.md", "hf_tc/**/*.md", "modeling/*.md", "tests/**/*.md", "model_cards/**/*.md")
SHOWN += ("model_cards/**/*.png", "tests/examples/*.py", "tests/examples/*.ipynb")
SHOWN += ("tests/examples/accelerate/*.yaml", "tests/**/test_*.py")
TEMPLATES = ("model_cards/template.md", "model_cards/report.md")  # of pages, not pages
COMMANDS = "<!-- commands -->"  # in the page of the command line
PACKAGE = TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lays the package out as it is installed, with `modeling/` as `hf_tc.modeling`, which Griffe cannot see here."""
    package = Path(PACKAGE.name) / "hf_tc"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "hf_tc", package, ignore=shutil.ignore_patterns("tiny_teacher", "*.txt"))
    shutil.copytree(ROOT / "modeling", package / "modeling")
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [PACKAGE.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the repository's pages, what they show, and the colours of code."""
    for path in (path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        if name not in TEMPLATES:
            # Said, because MkDocs leaves out folders with a dot.
            included = InclusionLevel.INCLUDED
            files.append(File.generated(config, name, abs_src_path=str(path), inclusion=included))
    colours = HtmlFormatter().get_style_defs(".highlight")
    files.append(File.generated(config, "code.css", content=colours))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links lead to where their targets are in the site; the command line's help is put in."""
    if Path(str(page.file.abs_src_path)).is_relative_to(config.docs_dir):
        markdown = markdown.replace("](../../", "](")  # these pages are at the top of the site
    else:
        markdown = markdown.replace(".docs/pages/", "")
    return markdown.replace(COMMANDS, command_line()) if COMMANDS in markdown else markdown


def command_line() -> str:
    """`--help` of every command, as Markdown."""
    from hf_tc.cli.main import build_parser

    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts = []
    for name, parser in commands.choices.items():
        parser.formatter_class = partial(argparse.HelpFormatter, width=100)
        parts.append(f"## hf-tc {name}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)
