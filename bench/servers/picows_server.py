"""picows on uvloop (with its own aiofastnet transports, its default): callbacks, one shared listener a path."""

from __future__ import annotations

import common
import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            # send() copies, so the view that dies with this call is enough, and the cheapest.
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Room(WSListener):
    def __init__(self) -> None:
        self.members: set[WSTransport] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.members.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for member in self.members:
            member.send(kind, payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.members.discard(transport)


ROUTES: dict[bytes, WSListener] = {b"/ws": Echo(), b"/room": Room()}


def listener(request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
    """``GET /`` gets the page. picows closes the connection after each plain HTTP answer."""
    route = ROUTES.get(request.path)
    if route is not None:
        return route
    page = WSUpgradeResponse.create_ok_response(common.HELLO)
    return WSUpgradeResponseWithListener(page, None)


async def main() -> None:
    args = common.arguments()
    server = await ws_create_server(
        listener, common.HOST, args.port, ssl=common.tls_context(args.tls), backlog=common.BACKLOG
    )
    await server.serve_forever()


uvloop.run(main())
