"""``python -m bench``: the same as ``python bench/run.py``."""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from run import main

main()
