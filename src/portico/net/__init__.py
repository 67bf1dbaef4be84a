"""Sockets: bytes in and bytes out. Nothing here knows a protocol."""
