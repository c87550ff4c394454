# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Every field of `DistillationConfig` as an option, and options from a file and a recipe.

What the command line says goes before the file, the file before the recipe, and the recipe before the defaults.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DEFAULT

# Set by the command itself, and how.
LEFT_OUT = {
    "output_dir": "give --out",
    "resume_from_checkpoint": "a run that was interrupted goes on by itself",
    "push_to_hub": "use hf-tc push afterwards",
    "do_train": "leave it out",
    "do_eval": "see --evaluations",
    "do_predict": "use hf-tc evaluate",
    "cross_entropy_share": "it is now --ce-weight",
}
SHORT_NAMES = {"--batch-size": "per_device_train_batch_size"}
IN_A_CACHE = ("teacher", "data")
FILE_ONLY_ONCE = ("config", "student", "help")


class RunOptions:
    """The options of a command that take seconds to know: `complete` adds them to its parser.

    Args:
        required: names of options that the command line or the file must have; `--teacher-cache` stands for some.
    """

    def __init__(self, parser: argparse.ArgumentParser, required: Sequence[str]) -> None:
        self.parser, self.required, self._are_there = parser, required, False

    def complete(self, words: list[str]) -> list[str]:
        """Adds the options with the defaults of the recipe asked for; gives the words with those of the file before
        them."""
        if not self._are_there:
            self._add()
            self._are_there = True
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config", type=Path)
        early.add_argument("--recipe")
        asked, _ = early.parse_known_args(words)
        given = {} if asked.config is None else self._read(asked.config)
        self._set_defaults(asked.recipe or given.get("recipe"))
        from_file = self._words(given)
        # A positional argument after them would be taken for one more of the values of an option with several.
        return [*words[:1], *from_file, *words[1:]] if words and not words[0].startswith("-") else [*from_file, *words]

    def _add(self) -> None:
        from transformers import HfArgumentParser

        from hf_tc.distillation.config import DistillationConfig
        from hf_tc.distillation.recipes import RECIPES

        settings: Any = HfArgumentParser(DistillationConfig, add_help=False)  # type: ignore[arg-type]  # a NewType there
        for action in settings._actions:
            action.option_strings = [name for name in action.option_strings if "_" not in name]
            action.required = False
            is_told = action.default is None or action.default is False or "default" in str(action.help).lower()
            if action.help and not is_told:
                action.help = f"{action.help} {DEFAULT}"
            if action.dest in LEFT_OUT:
                action.help = argparse.SUPPRESS
        self._add_in_groups(settings._actions)
        recipe = next(action for action in self.parser._actions if action.dest == "recipe")
        recipe.metavar = "{" + ",".join(RECIPES) + "}"

    def _add_in_groups(self, actions: Sequence[argparse.Action]) -> None:
        """Our own before the library's, which are four times as many."""
        from transformers import TrainingArguments

        of_the_library = {field.name for field in fields(TrainingArguments)}
        own = self.parser.add_argument_group("what is learned, and how")
        for name, field in SHORT_NAMES.items():
            own.add_argument(name, dest=field, type=int, help=f"the same as --{field.replace('_', '-')}")
        library = self.parser.add_argument_group("transformers.TrainingArguments")
        for action in actions:
            (library if action.dest in of_the_library else own)._add_action(action)

    def _set_defaults(self, recipe: str | None) -> None:
        import torch

        from hf_tc.distillation.recipes import DEFAULT_RECIPE, settings_of

        recipe = recipe or DEFAULT_RECIPE
        try:
            chosen = settings_of(recipe)
        except ValueError as error:
            self.parser.error(str(error))
        self.parser.set_defaults(recipe=recipe, bf16=torch.cuda.is_available(), **chosen)

    def _read(self, path: Path) -> dict[str, Any]:
        import yaml

        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.parser.error(f"--config {path} cannot be read: {error.strerror}.")
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            self.parser.error(f"--config {path} is neither YAML nor JSON: {' '.join(str(error).split())}")
        if not isinstance(found, Mapping):
            self.parser.error(f"--config {path} holds {type(found).__name__}; it must hold options by their names.")
        known, names = self._known(), {str(name): str(name).replace("-", "_") for name in found}
        if unknown := sorted(given for given, name in names.items() if name not in known):
            verb = "which is no option" if len(unknown) == 1 else "which are no options"
            self.parser.error(f"--config {path} has {', '.join(unknown)}, {verb} of the command.")
        for option in {known[name].dest for name in names.values()}:
            same = [given for given, name in names.items() if known[name].dest == option]
            if len(same) > 1:
                self.parser.error(f"--config {path} has {' and '.join(same)}, which are one option. Keep one of them.")
        return {names[str(given)]: value for given, value in found.items()}

    def _known(self) -> dict[str, argparse.Action]:
        """What a file may have, old and short names among it, by names with _."""
        return {
            name.removeprefix("--").replace("-", "_"): action
            for action in self.parser._actions
            if action.dest not in FILE_ONLY_ONCE
            for name in action.option_strings
        }

    def _words(self, given: Mapping[str, Any]) -> list[str]:
        """The options of a file as words of a command line. One without a value, such as --no-packing, is there if it
        is true."""
        known, words = self._known(), list[str]()
        for name, value in given.items():
            if known[name].nargs != 0:
                words += as_words(name, value)
            elif value not in (True, False, None):
                self.parser.error(f"--config has {name}: {value}; it must be true or false.")
            elif value:
                words.append(f"--{name.replace('_', '-')}")
        return words

    def check(self, options: argparse.Namespace) -> None:
        """Ends with an error where what is required was in neither place, or is for the command to set."""
        in_place = () if options.teacher_cache is None else IN_A_CACHE
        missing = [f"--{name}" for name in self.required if getattr(options, name) is None and name not in in_place]
        if options.tokens is None and options.curriculum is None:
            missing.append("--tokens")
        if missing:
            way_out = ""
            if any(f"--{name}" in missing for name in IN_A_CACHE):
                way_out = " (a --teacher-cache stands for --teacher and --data)"
            self.parser.error(f"the following arguments are required: {', '.join(missing)}{way_out}")
        for name, way_out in LEFT_OUT.items():
            if getattr(options, name):
                self.parser.error(f"--{name.replace('_', '-')} is not for this command: {way_out}.")


def as_words(name: str, value: Any) -> list[str]:
    """An option of a file as the words that a command line would have for it."""
    option = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, list):
        parts = [":".join(map(str, item.values())) if isinstance(item, Mapping) else str(item) for item in value]
        return [option, *parts]
    if isinstance(value, Mapping):
        return [f"{option}={json.dumps(value)}"]
    return [f"{option}={str(value).lower() if isinstance(value, bool) else value}"]


def settings_of_options(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of `DistillationConfig` among what was parsed."""
    from hf_tc.distillation.config import DistillationConfig

    names = (field.name for field in fields(DistillationConfig))
    return {name: getattr(options, name) for name in names if name not in LEFT_OUT}
