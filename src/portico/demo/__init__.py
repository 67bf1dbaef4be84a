"""`portico demo`: one port that shows itself.

`app` puts the application together, written only with what `portico` promises to everybody: ``live`` (a WebSocket
endpoint) with ``meter``, ``value`` and ``chat`` (over one `Realtime`), ``site`` (an ASGI application) and ``guests``.
``page/`` is what a browser gets; it loads nothing from elsewhere. Nothing in Portico may import this package except the
command line.
"""

from __future__ import annotations

from portico.demo.app import running

__all__ = ["running"]
