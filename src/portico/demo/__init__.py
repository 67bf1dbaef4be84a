"""`portico demo`: one port that shows itself.

`app` is the application, written only with what `portico` promises to everybody: an `App` with one WebSocket endpoint
and one ASGI application beside it. `page.html`, `page.css` and `page.js` are what a browser gets; they load nothing
from elsewhere. Nothing in Portico may import this package except the command line.
"""

from __future__ import annotations

from portico.demo.app import build, demo, running

__all__ = ["build", "demo", "running"]
