"""Which of the two builds runs: the compiled modules, or the same source interpreted.

A module with a ``.pxd`` beside it may have been compiled; Python then prefers the extension module to the ``.py``.
``PORTICO_PURE=1`` in the environment refuses the extensions: the finder below answers first, with the ``.py``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

PACKAGE = pathlib.Path(__file__).parent


class SourceFinder(importlib.abc.MetaPathFinder):
    """Finds the ``.py`` of every module of this package that has a ``.pxd``, and no module that has no ``.py``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("portico."):
            return None
        file = PACKAGE.joinpath(*fullname.split(".")[1:])
        if file.with_suffix(".pyx").exists():
            raise ModuleNotFoundError(f"PORTICO_PURE=1 refuses the compiled {fullname}", name=fullname)
        if not file.with_suffix(".pxd").exists():
            return None
        return importlib.util.spec_from_file_location(fullname, file.with_suffix(".py"))


def refuse_compiled() -> bool:
    """Whether ``PORTICO_PURE=1`` asks for the interpreted build; then the extensions are refused from here on."""
    if os.environ.get("PORTICO_PURE", "") not in ("1", "true", "yes"):
        return False
    if not any(isinstance(finder, SourceFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SourceFinder())
    return True
