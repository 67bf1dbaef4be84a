"""Clients side by side: one connection's echo round trips a second, and the client's own CPU per message.

    python bench/clients.py [--rounds N] [--seconds S] [--document FILE]

Each client runs in a process of its own against the same server (Portico's, with callbacks), in interleaved rounds:
A B C, A B C, … The figure is the median of the rounds. Each is measured on asyncio's own event loop and on uvloop, and
compared with websockets on the same loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

HERE = pathlib.Path(__file__).parent
CLIENTS = ("portico", "picows", "websockets")
LOOPS = ("asyncio", "uvloop")
LIMIT = 0.6  # of websockets' CPU per message
MESSAGE = b"x" * 64


class Count:
    """Round trips and the CPU that they cost, from the end of the warm-up on."""

    def __init__(self, seconds: float) -> None:
        self.number = 0
        self._seconds = seconds
        self._began = time.perf_counter() + 0.5
        self._cpu: float | None = None
        self._counted = 0

    def done(self) -> bool:
        """Count one more; True when the time is over."""
        self.number += 1
        if self.number & 63:
            return False
        now = time.perf_counter()
        if self._cpu is None:
            if now >= self._began:
                self._cpu, self._counted, self._began = cpu(), self.number, now
            return False
        if now - self._began < self._seconds:
            return False
        messages = self.number - self._counted
        spent = cpu() - self._cpu
        print(json.dumps({"rate": messages / (now - self._began), "cpu_us": spent * 1e6 / messages}), flush=True)
        return True


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def portico_client(port: int, count: Count) -> None:
    import portico

    async with portico.connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as ws:
        await ws.send(MESSAGE)
        async for message in ws:
            if count.done():
                break
            await ws.send(message)


async def websockets_client(port: int, count: Count) -> None:
    import websockets

    async with websockets.connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as ws:
        await ws.send(MESSAGE)
        async for message in ws:
            if count.done():
                break
            await ws.send(message)


async def picows_client(port: int, count: Count) -> None:
    import picows

    over = asyncio.get_running_loop().create_future()

    class Listener(picows.WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            transport.send(picows.WSMsgType.BINARY, MESSAGE)

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if count.done():
                over.set_result(None)
                transport.disconnect()
            else:
                transport.send(picows.WSMsgType.BINARY, frame.get_payload_as_bytes())

    await picows.ws_connect(Listener, f"ws://127.0.0.1:{port}/ws")
    await over


RUNS: dict[str, Callable[[int, Count], Awaitable[None]]] = {
    "portico": portico_client,
    "picows": picows_client,
    "websockets": websockets_client,
}


def run_client(name: str, loop: str, port: int, seconds: float) -> None:
    """In the client's own process."""
    work = RUNS[name](port, Count(seconds))
    if loop == "asyncio":
        asyncio.run(work)  # type: ignore[arg-type]
    else:
        import uvloop

        uvloop.run(work)


def measure(args: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, float]]]:
    sys.path.insert(0, str(HERE))
    from cases import SERVERS
    from measure import serving
    from quiet import wait_until_quiet

    results: dict[tuple[str, str], list[dict[str, float]]] = {(loop, name): [] for loop in LOOPS for name in CLIENTS}
    with serving(SERVERS["portico-endpoint"], None) as running:
        for number in range(args.rounds):
            for loop, name in results:
                wait_until_quiet(args.patience)
                command = [sys.executable, __file__, "--client", name, "--loop", loop, "--port", str(running.port)]
                command += ["--seconds", str(args.seconds)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds + 60)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                row = json.loads(done.stdout)
                results[loop, name].append(row)
                print(f"  {number + 1}/{args.rounds} {name} on {loop}: {row['cpu_us']:.2f} µs", flush=True)
    return results


def document(results: dict[tuple[str, str], list[dict[str, float]]], args: argparse.Namespace) -> str:
    from report import machine, markdown, today, versions

    table = [["client", "loop", "CPU µs per message", "spread", "round trips/s", "CPU against websockets"]]
    verdicts = []
    for (loop, name), rows in results.items():
        cpus = [row["cpu_us"] for row in rows]
        rate = statistics.median(row["rate"] for row in rows)
        middle = statistics.median(cpus)
        ratio = middle / statistics.median(row["cpu_us"] for row in results[loop, "websockets"])
        spread = f"{min(cpus):.2f} to {max(cpus):.2f}"
        table.append([name, loop, f"{middle:.2f}", spread, f"{rate:,.0f}", f"{ratio:.2f}"])
        if name == "portico":
            met = "met" if ratio <= LIMIT else "MISSED"
            verdicts.append(f"portico against websockets on {loop}: {ratio:.2f}, target ≤ {LIMIT:.2f}: {met}")
    verdict = "\n\n".join(verdicts)
    facts = "\n".join(f"- {name}: {value}" for name, value in (machine() | versions()).items())
    command = f"python bench/clients.py --rounds {args.rounds} --seconds {args.seconds:g}"
    about = "One connection, 64-byte binary messages, one in flight; the server is the same for all."
    return f"# Clients, {today()}\n\n`{command}`\n\n{about}\n\n{markdown(table)}\n\n{verdict}\n\n{facts}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--document", type=pathlib.Path, default=None, help="write the result there, as Markdown")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        run_client(args.client, args.loop, args.port, args.seconds)
        return
    text = document(measure(args), args)
    print("\n" + text)
    if args.document:
        args.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
