"""What the tests of the command line share."""

from __future__ import annotations

import pathlib

import pytest
from tests.cli.command import APP


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with an application, ``shop:app``."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path
