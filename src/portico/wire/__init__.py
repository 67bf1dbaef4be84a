"""The protocols, sans I/O: bytes in, events out; no socket, no asyncio, no clock, no logging."""
