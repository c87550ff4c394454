# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""An extension of Griffe, which reads signatures as they are written: `**options` are shown as the options they are.

Which ones a function takes is asked of the function itself; their types and defaults are written at `from_teacher`.
"""

import inspect
import pkgutil
from typing import Any

from griffe import Extension, Function, GriffeLoader, ParameterKind, Parameters

WRITTEN = "hf_tc.convert.from_teacher"


class ShownOptions(Extension):
    """Puts the options in the place of `**options`, of `takes_options` and of the student's own `from_teacher`."""

    def on_function(self, *, func: Function, loader: GriffeLoader, **_: Any) -> None:
        own = [item for item in func.parameters if item.kind is not ParameterKind.var_keyword]
        declared = any("takes_options" in str(decorator.value) for decorator in func.decorators)
        if len(own) == len(func.parameters) or not (declared or func.name == "from_teacher"):
            return
        written = loader.modules_collection[WRITTEN].parameters
        taken = inspect.signature(pkgutil.resolve_name(func.path)).parameters
        names = [name for name in taken if name not in {item.name for item in own}]
        func.parameters = Parameters(*own, *(written[name] for name in names))
