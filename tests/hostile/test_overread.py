"""The compiled masking reads and writes within its buffers (RFC 6455 §5.3): built anew with AddressSanitizer, for all
lengths up to 64 bytes, alignments and phases. Only the compiled build has anything that could read beyond."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import portico

SOURCE = Path(portico.__file__).parent / "wire" / "_masking.pyx"
EVERY = """
import sys
sys.path.insert(0, sys.argv[1])
from _masking import apply_mask
for length in range(65):
    for start in range(9):
        for phase in range(4):
            for kind in (bytes, bytearray):
                data = kind(range(start + length))
                masked = apply_mask(data, start, start + length, 0x01020304, phase)
                assert masked == bytes(data[start + i] ^ (i + phase & 3) + 1 for i in range(length))
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is needed"
    return found


if portico.compiled:

    def test_masking_stays_within_its_buffers(tmp_path: Path) -> None:
        made, module = tmp_path / "_masking.c", tmp_path / "_masking.so"
        subprocess.run([sys.executable, "-m", "cython", "-3", "-o", made, SOURCE], check=True)
        options = ["-O1", "-fsanitize=address", "-shared", "-fPIC", "-w", f"-I{sysconfig.get_path('include')}"]
        subprocess.run([tool("gcc"), *options, "-o", module, made], check=True)
        library = subprocess.run([tool("gcc"), "-print-file-name=libasan.so"], capture_output=True, text=True)
        checked = {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-c", EVERY, str(tmp_path)]
        done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
