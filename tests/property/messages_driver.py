"""Drives one build's messages by steps, for another process to compare: run by ``python -m``, JSON line by line."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.property.frame_streams import LIMITS, MODES
from tests.wire.raw import CLIENT, SERVER, read_frames, told

import portico
from portico.errors import LocalError

Step = tuple[Any, ...]


def plain(value: object) -> object:
    """Events and payloads as JSON has them; text and bytes stay apart."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def run(role: str, mode: str, steps: list[Step]) -> object:
    """What each step gives: events for what is fed, bytes for what is sent (a client's without their masks)."""
    end = CLIENT if role == "client" else SERVER
    keep = MODES[mode]
    messages = end.messages(None if keep is None else end.codec(takeover=keep, threshold=10), **LIMITS)
    results: list[object] = []
    for verb, *arguments in steps:
        try:
            if verb == "feed":
                result: object = told(messages.feed(bytes.fromhex(arguments[0])))
            elif verb == "eof":
                result = told(messages.feed_eof())
            elif verb == "text":
                result = messages.encode(bytes.fromhex(arguments[0]).decode("utf-8", "surrogatepass"))
            elif verb == "data":
                result = messages.encode(bytes.fromhex(arguments[0]))
            elif verb in ("ping", "pong"):
                result = getattr(messages, verb)(bytes.fromhex(arguments[0]))
            else:
                result = getattr(messages, verb)(*arguments)
        except LocalError as error:
            result = ["LocalError", str(error)]
        if end.client and isinstance(result, bytes):
            result = [(first, payload) for first, _, payload in read_frames(result)]
        results.append([plain(result), messages.state, messages.assembling()])
    return results


if __name__ == "__main__":
    print(json.dumps(portico.compiled), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
