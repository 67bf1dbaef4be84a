"""One source, two builds: the same torn, mutated streams and the same calls give the same on both.

This process is one build, a child process the other; `messages_driver` runs the same steps in both.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.property.frame_streams import MODES, streams, torn
from tests.property.messages_driver import Step, run
from tests.wire.raw import CLIENT, SERVER

import portico

ROOT = pathlib.Path(__file__).parents[2]
ROLES = {"server": SERVER, "client": CLIENT}

Run = Callable[[str, str, list[Step]], object]


@pytest.fixture(scope="module")
def other_build() -> Iterator[Run]:
    """`run` in a process of the build that this one is not."""
    environment = {name: value for name, value in os.environ.items() if name != "PORTICO_PURE"}
    if portico.compiled:
        environment["PORTICO_PURE"] = "1"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.property.messages_driver"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        compiled = json.loads(process.stdout.readline())
        if compiled == portico.compiled:
            process.stdin.close()
            if shutil.which("cc") is None:
                pytest.skip("there is no C compiler, and so no second build to compare with")
            pytest.fail("both processes run the interpreted build: `pip install -e .` makes the compiled one")

        def run_there(role: str, mode: str, steps: list[Step]) -> object:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([role, mode, steps]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run_there
        process.stdin.close()


def compare(other_build: Run, role: str, mode: str, steps: list[Step]) -> None:
    here = json.loads(json.dumps(run(role, mode, steps)))
    assert other_build(role, mode, steps) == here


HEX = st.binary(max_size=130).map(bytes.hex)
TEXTS = st.text(alphabet=st.characters(), max_size=60) | st.sampled_from(["\ud800", "x\udfff", "x" * 126])
REASONS = st.text(max_size=50) | st.sampled_from(["x" * 123, "x" * 124, "€" * 41, "€" * 42])
CODES = st.sampled_from([0, 999, 1000, 1004, 1005, 1006, 1011, 1015, 3000, 4999, 5000, -1, 1 << 31, 1 << 40])
CALLS = st.one_of(
    st.tuples(st.just("text"), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass").hex())),
    st.tuples(st.just("data"), HEX),
    st.tuples(st.sampled_from(["ping", "pong"]), HEX),
    st.tuples(st.just("close"), CODES, REASONS),
    st.tuples(st.just("close_answer"), CODES),
    st.just(("eof",)),
)
shared = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("mode", MODES)
@shared
@given(data=st.data())
def test_torn_and_mutated_streams_are_read_alike(other_build: Run, role: str, mode: str, data: st.DataObject) -> None:
    stream = data.draw(streams(ROLES[role], MODES[mode]))
    steps: list[Step] = [("feed", piece.hex()) for piece in data.draw(torn(stream))]
    compare(other_build, role, mode, [*steps, ("eof",)])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("mode", MODES)
@shared
@given(data=st.data())
def test_calls_between_reads_give_the_same_bytes_errors_and_states(
    other_build: Run, role: str, mode: str, data: st.DataObject
) -> None:
    pieces = data.draw(torn(data.draw(streams(ROLES[role], MODES[mode]))))
    steps: list[Step] = [("feed", piece.hex()) for piece in pieces]
    for call in data.draw(st.lists(CALLS, max_size=6)):
        steps.insert(data.draw(st.integers(0, len(steps))), call)
    compare(other_build, role, mode, steps)


EDGES = [n + d for n in (0, 126, 1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64) for d in (-2, -1, 0, 1)]
LENGTHS = st.sampled_from([n for n in EDGES if 0 <= n < 1 << 64]) | st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("role", ROLES)
@shared
@given(
    first=st.sampled_from([0x00, 0x02, 0x80, 0x81, 0x82, 0xC1, 0xC2]) | st.integers(0, 255),
    length=LENGTHS,
    begun=st.sampled_from([b"", b"\x02", b"\x42"]),
    payload=st.binary(max_size=20),
)
@example(first=0x80, length=(1 << 63) - 1, begun=b"\x02", payload=b"x")
@example(first=0x82, length=1 << 63, begun=b"", payload=b"x")
@example(first=0x82, length=(1 << 32) + 5, begun=b"", payload=b"abcdefghi")
def test_lengths_are_read_alike(
    other_build: Run, role: str, first: int, length: int, begun: bytes, payload: bytes
) -> None:
    """What is a Python int in one build is 64 bits in the other."""
    end = ROLES[role]
    forms = [form for form, most in ((7, 126), (16, 1 << 16), (64, 1 << 64)) if length < most]
    for form in forms:
        steps: list[Step] = [("feed", end.frame(begun[0], b"\x00").hex())] if begun else []
        data = end.header(first, length, form) + payload
        compare(other_build, role, "fresh", [*steps, ("feed", data.hex()), ("eof",)])


@pytest.mark.parametrize("role", ROLES)
@shared
@given(junk=st.binary(max_size=40))
def test_random_bytes_are_read_alike(other_build: Run, role: str, junk: bytes) -> None:
    compare(other_build, role, "fresh", [("feed", junk.hex()), ("eof",)])
