"""A FastAPI application, and beside it on the same port the events that its routes emit to every open dashboard."""

from __future__ import annotations

import os
import pathlib
from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

import portico
from portico.realtime.history import History

PAGE = pathlib.Path(__file__).with_name("page") / "index.html"

web = FastAPI()
io = portico.Realtime(history=History(rooms=["orders"], count=50, age_s=3600))
app = portico.App()
app.mount("/socket.io", io)  # live events
app.mount("/", web)  # all the rest


class Order(BaseModel):
    item: Annotated[str, Field(min_length=1, max_length=80)]
    count: Annotated[int, Field(ge=1, le=1000)]


orders: list[Order] = []


@web.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@web.post("/orders", status_code=201)
async def order(order: Order) -> dict[str, int]:
    orders.append(order)
    io.room("orders").emit("order", order.model_dump())  # also from a plain "def" route, which runs in a thread
    return {"orders": len(orders)}


@io.use_streams
async def admit(request: portico.Request, room: str) -> None:
    """Dashboards listen to Server-Sent Events: a real one would look at the cookies of `request` here."""
    if room != "orders":
        raise portico.Refuse("there is no such room")


if __name__ == "__main__":
    portico.run(app, port=int(os.environ.get("PORT", "8000")))
