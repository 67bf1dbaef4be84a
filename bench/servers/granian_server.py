"""granian, with its own loop policy (uvloop) and one worker: the ASGI application of all."""

from __future__ import annotations

import common
from granian import Granian
from granian.constants import Interfaces, Loops

if __name__ == "__main__":
    args = common.arguments()
    Granian(
        "common:pages",
        address=common.HOST,
        port=args.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=1,
        backlog=common.BACKLOG,
        log_enabled=False,
    ).serve()
