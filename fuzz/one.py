"""One target under atheris, in a process of its own: ``python -m fuzz.one TARGET [libFuzzer's arguments]``."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    with atheris.instrument_imports(include=["portico.wire"]):
        from fuzz.targets import TARGETS
    name, *arguments = sys.argv[1:]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
