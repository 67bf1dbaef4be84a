"""The hand-written compiled code reads and writes within its buffers: built anew with AddressSanitizer, and given what
an attacker would give it. Only the compiled build has anything that could read beyond."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import portico

WIRE = Path(portico.__file__).parent / "wire"

# RFC 6455 §5.3: all lengths up to 64 bytes, alignments and phases.
MASKING = """
from _masking import apply_mask
for length in range(65):
    for start in range(9):
        for phase in range(4):
            for kind in (bytes, bytearray):
                data = kind(range(start + length))
                masked = apply_mask(data, start, start + length, 0x01020304, phase)
                assert masked == bytes(data[start + i] ^ (i + phase & 3) + 1 for i in range(length))
"""

# RFC 9112 §2: heads cut at every byte, with every byte in every place, and fields of every length.
SCAN = """
from _scan import pack_fields, scan_request
lines = b"Host: a.b:80", b"Content-Length: 12", b"Connection: close", b"Expect: x", b"Upgrade: x", b"Sec-WebSocket-K: x"
for line in lines:
    whole = b"POST /a%20b?c HTTP/1.1\\r\\nHost: a\\r\\nX: y \\r\\n" + line + b"\\r\\n\\r\\n"
    for end in range(len(whole) + 1):
        cut = whole[:end]
        scan_request(cut + b"", 0, len(whole), 9)
        scan_request(cut, end // 2, len(whole), 9)
        for octet in (0, 9, 10, 13, 32, 58, 127, 255):
            scan_request(cut + bytes([octet]), 0, len(whole), 9)
            scan_request(cut + bytes([octet]) + whole[end + 1 :], 0, len(whole), 9)
for size in range(40):
    for name in (b"a" * size, b"Content-Length"[:size], b"Transfer-Encoding"[:size]):
        for value in (b"", b"1" * size, b"\\xff" * size, b"\\r" * size):
            pack_fields([(name, value), (b"date", b"")])
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is needed"
    return found


if portico.compiled:

    @pytest.mark.parametrize(("name", "attack"), [("_masking", MASKING), ("_scan", SCAN)])
    def test_it_stays_within_its_buffers(name: str, attack: str, tmp_path: Path) -> None:
        made, module = tmp_path / f"{name}.c", tmp_path / f"{name}.so"
        subprocess.run([sys.executable, "-m", "cython", "-3", "-o", made, WIRE / f"{name}.pyx"], check=True)
        options = ["-O1", "-fsanitize=address", "-shared", "-fPIC", "-w", f"-I{sysconfig.get_path('include')}"]
        subprocess.run([tool("gcc"), *options, "-o", module, made], check=True)
        library = subprocess.run([tool("gcc"), "-print-file-name=libasan.so"], capture_output=True, text=True)
        checked = {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{attack}"
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | checked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
