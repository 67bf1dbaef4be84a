"""What the connections of a server need of it at every request; `server.Server` is one. No behaviour."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from portico.accounting import Counters
from portico.limits import Limits

if TYPE_CHECKING:
    from portico.server.access import AccessLog
    from portico.server.app import AsgiApp, Site
    from portico.server.proxies import Proxies


class Dates:
    """The line of the Date header (RFC 9110 §6.6.1), made once a second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """The line, with its CRLF."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
        return self._line


class Host:
    """- ``site``: what is served, under ``limits``; ``routes`` and ``only`` are its own.
    - ``counters``: what has happened.
    - ``stopping``: no more requests are answered than those that are here.
    - ``access``: who is told of each request, or None. ``proxies``: those that are believed, or None.
    - ``tasks``: of handlers and applications that run. ``states``: of the applications' lifespans.
    """

    __slots__ = (
        "access",
        "counters",
        "dates",
        "keep_alive",
        "limits",
        "max_held",
        "max_pipelined",
        "only",
        "progress_window",
        "proxies",
        "routes",
        "site",
        "states",
        "stopping",
        "tasks",
    )

    def __init__(self, site: Site, limits: Limits, counters: Counters, proxies: Proxies | None) -> None:
        self.site = site
        self.routes = site.routes
        self.only = site.only
        self.limits = limits
        self.counters = counters
        self.proxies = proxies
        self.stopping = False
        self.access: AccessLog | None = None
        self.dates = Dates()
        self.tasks: set[asyncio.Future[Any]] = set()
        self.states: dict[AsgiApp, dict[str, Any]] = {}
        self.keep_alive = limits.keep_alive_s
        self.progress_window = limits.progress_window_s
        self.max_held = limits.max_body_buffer_bytes
        self.max_pipelined = limits.max_pipelined
