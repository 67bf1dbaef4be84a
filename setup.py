"""Compiles the hot modules where a C compiler is there; without one the same files run interpreted.

A module is hot when a ``.pxd`` stands beside its ``.py``; the ``.py`` itself is compiled, unchanged. What fails to
compile is left out, and Python then imports the ``.py``. ``PORTICO_BUILD=pure`` compiles nothing.
"""

from __future__ import annotations

import os
import pathlib
import sys

from setuptools import Extension, setup

SOURCE = pathlib.Path("src")
HAND_WRITTEN = sorted(SOURCE.rglob("_*.pyx"))
DIRECTIVES = {"language_level": "3", "annotation_typing": False, "embedsignature": False, "profile": False}
FLAGS = [] if sys.platform == "win32" else ["-O3", "-g0"]


def extensions() -> list[Extension]:
    if os.environ.get("PORTICO_BUILD") == "pure":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    augmented = [pxd.with_suffix(".py") for pxd in sorted(SOURCE.rglob("*.pxd"))]
    files = [file for file in augmented + HAND_WRITTEN if file.exists()]
    modules = [
        Extension(".".join(file.relative_to(SOURCE).with_suffix("").parts), [file.as_posix()], extra_compile_args=FLAGS)
        for file in files
    ]
    compiled = cythonize(modules, build_dir="build/cython", compiler_directives=DIRECTIVES, show_all_warnings=False)
    for extension in compiled:
        extension.optional = True  # set here, because cythonize drops it
    return compiled


setup(ext_modules=extensions())
