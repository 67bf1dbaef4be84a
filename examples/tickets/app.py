"""Log in over HTTP, connect with a ticket: the password goes to one route, and the connection shows what that gave."""

from __future__ import annotations

import hashlib
import hmac
import os
import pathlib
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel

import portico

SALT = b"one for each user, in a real table"
USERS = {"ada": hashlib.scrypt(b"engine", salt=SALT, n=2**14, r=8, p=1)}
PAGE = pathlib.Path(__file__).with_name("page") / "index.html"

web = FastAPI()
io = portico.Realtime()
app = portico.App()
app.mount("/socket.io", io)
app.mount("/", web)


class Login(BaseModel):
    name: str
    password: str


@web.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@web.post("/ticket")
async def ticket(login: Login) -> dict[str, str]:
    given = hashlib.scrypt(login.password.encode(), salt=SALT, n=2**14, r=8, p=1)
    if not hmac.compare_digest(given, USERS.get(login.name, b"")):
        raise HTTPException(403, "wrong name or password")
    return {"ticket": await io.ticket({"name": login.name}, expires_s=30)}


@io.use
async def known(client: Any, auth: Any) -> None:
    if client.user is None:  # it came without a ticket; a wrong one was refused before
        raise portico.Refuse("log in first")


@io.on("who")
async def who(client: Any) -> str:
    return f"You are {client.user['name']}."


if __name__ == "__main__":
    portico.run(app, port=int(os.environ.get("PORT", "8000")))
