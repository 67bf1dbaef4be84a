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

PACKAGE = Path(portico.__file__).parent

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

# Reads into buffers of every length, from sockets that hold more; writes of every part; what goes away meanwhile.
CALLS = """
import socket
from _calls import receive, send
ours, theirs = socket.socketpair()
ours.setblocking(False)
theirs.setblocking(False)
for size in range(1, 70):
    for held in (0, 1, size, size + 1):
        data = bytes(range(held))
        for kind in (bytes, bytearray, memoryview):
            assert send(ours, ours.fileno(), kind(data)) == held
            buffer = bytearray(size)
            got = receive(theirs, theirs.fileno(), buffer)
            assert got == (min(size, held) if held else -1), (got, size, held)
            while receive(theirs, theirs.fileno(), bytearray(9)) > 0:
                pass
theirs.close()
for _ in range(100):
    try:
        send(ours, ours.fileno(), bytearray(9))
    except BrokenPipeError:
        continue
    raise AssertionError
"""

# Coroutines that return, wait, raise, and are thrown away at once; what isn't one.
STEPS = """
import contextvars, gc
from _steps import first_step
class Later:
    def __await__(self):
        yield [1]
async def give(value): return value
async def fail(value): raise ValueError(value)
async def wait(value): await Later()
context = contextvars.copy_context()
for n in range(1000):
    assert first_step(context, give, [(n,)]) == (None, (n,))
    coroutine, value = first_step(context, wait, [(n,)])
    assert value == [1]
    coroutine.close()
    for function, args in ((fail, [n]), (give, []), (dict, []), (print, [n, n, n, fail][:0])):
        try:
            first_step(context, function, args)
        except (TypeError, ValueError):
            continue
        raise AssertionError
    del coroutine, value
    if not n % 100:
        gc.collect()
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is needed"
    return found


if portico.compiled:

    @pytest.mark.parametrize(
        ("file", "attack"),
        [("wire/_masking", MASKING), ("wire/_scan", SCAN), ("net/_calls", CALLS), ("net/_steps", STEPS)],
    )
    def test_it_stays_within_its_buffers(file: str, attack: str, tmp_path: Path) -> None:
        name = Path(file).name
        made, module = tmp_path / f"{name}.c", tmp_path / f"{name}.so"
        subprocess.run([sys.executable, "-m", "cython", "-3", "-o", made, PACKAGE / f"{file}.pyx"], check=True)
        options = ["-O1", "-fsanitize=address", "-shared", "-fPIC", "-w", f"-I{sysconfig.get_path('include')}"]
        subprocess.run([tool("gcc"), *options, "-o", module, made], check=True)
        library = subprocess.run([tool("gcc"), "-print-file-name=libasan.so"], capture_output=True, text=True)
        checked = {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{attack}"
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | checked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
