"""What TARGET names: an application, found by module and attribute."""

from __future__ import annotations

import importlib
import os
import sys
from types import TracebackType
from typing import Any

import click


class Broken(Exception):
    """The module of TARGET is there, and importing it failed: `__cause__` says how, in the application's own frames."""


def load(target: str, app_dir: str = ".") -> object:
    """What ``module:attribute`` names; raises click.UsageError that says what is wrong with it, or `Broken`."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise click.UsageError(f"TARGET {target!r}: expected module:attribute, for example app:app")
    sys.path.insert(0, os.path.abspath(app_dir))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (module_name + ".").startswith(f"{error.name}."):
            raise click.UsageError(
                f"TARGET {target!r}: no module {error.name!r} in {os.path.abspath(app_dir)}"
            ) from None
        cause = error.with_traceback(_own_frames(error.__traceback__))
        raise Broken(f"{module_name!r} could not be imported") from cause
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise click.UsageError(f"TARGET {target!r}: {module_name!r} has no {attribute!r}") from None
    return found


def _own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """`traceback` without what importing looks like from within."""
    if traceback is None:
        return None
    rest = _own_frames(traceback.tb_next)
    file = traceback.tb_frame.f_code.co_filename
    if file in (__file__, importlib.__file__) or file.startswith("<frozen importlib"):
        return rest
    return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)
