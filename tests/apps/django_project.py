"""A Django project in one file: views, middleware, uploads, streams; and Channels' consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        DATA_UPLOAD_MAX_MEMORY_SIZE=1 << 20,
        DEBUG=False,
        INSTALLED_APPS=["channels"],
        LOGGING_CONFIG=None,
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="for tests",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        USE_TZ=True,
    )
    django.setup()

from channels.auth import CookieMiddleware  # Django must know its settings first
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt

left = asyncio.Queue[str]()  # that a client has left, as an async view saw it


def sync_view(request: HttpRequest, number: int) -> JsonResponse:
    request.session["seen"] = request.session.get("seen", 0) + 1
    return JsonResponse({"number": number, "seen": request.session["seen"], "url": request.build_absolute_uri()})


async def async_view(request: HttpRequest) -> JsonResponse:
    await asyncio.sleep(0)
    return JsonResponse({"method": request.method, "agent": request.headers["user-agent"]})


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    file: Any = request.FILES["file"]
    return JsonResponse({"name": file.name, "size": file.size, "note": request.POST["note"]})


def protected(request: HttpRequest) -> HttpResponse:
    return HttpResponse("never without a token")


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d\n" % number

    return StreamingHttpResponse(pieces())


class Closing(StreamingHttpResponse):
    """A response that tells when Django has cleaned up after it, as it must for database connections and files."""

    def close(self) -> None:
        super().close()
        left.put_nowait("closed")


async def endless(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"more" * 1000
            await asyncio.sleep(0)

    return Closing(pieces())


async def waiting(request: HttpRequest) -> HttpResponse:
    left.put_nowait("waits")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        left.put_nowait("cancelled")
        raise
    return HttpResponse("never")


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the view is broken")


urlpatterns = [
    path("sync/<int:number>", sync_view),
    path("async", async_view),
    path("upload", upload),
    path("protected", protected),
    path("stream", sync_stream),
    path("endless", endless),
    path("waiting", waiting),
    path("broken", broken),
]


class Chat(AsyncJsonWebsocketConsumer):
    """Everybody in a room hears everything; who has no name is refused."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        if not self.scope["query_string"]:
            await self.close()
            return
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept("json" if "json" in self.scope["subprotocols"] else None)

    async def receive_json(self, content: Any, **_: Any) -> None:
        if content == "close":
            await self.close(4003)
        else:
            await self.channel_layer.group_send(self.room, {"type": "chat.message", "content": content})

    async def chat_message(self, event: Any) -> None:
        await self.send_json(event["content"])

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)


class SyncEcho(WebsocketConsumer):
    """A consumer whose callbacks run in threads."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data, bytes_data=bytes_data)


class LongPoll(AsyncHttpConsumer):
    """Channels' own answer to HTTP."""

    async def handle(self, body: bytes) -> None:
        await self.send_headers(status=202, headers=[(b"Content-Type", b"text/plain")])
        await self.send_body(b"half ", more_body=True)
        await self.send_body(body)


plain: Any = get_asgi_application()

_sockets = URLRouter([path("chat/<str:room>", Chat.as_asgi()), path("echo", SyncEcho.as_asgi())])
with_channels: Any = ProtocolTypeRouter(
    {
        "http": URLRouter([path("poll", LongPoll.as_asgi()), re_path(r"", plain)]),
        "websocket": AllowedHostsOriginValidator(CookieMiddleware(_sockets)),
    }
)
