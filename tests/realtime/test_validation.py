"""A handler's annotations decode and check what comes; what doesn't is answered to that client alone, with a code."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from tests.realtime.raw import realtime, serving
from tests.support import Logged

import portico

pytestmark = pytest.mark.usefixtures("logged")

SECRET = "password of /etc/secret"


class Structured(msgspec.Struct):
    count: int
    tags: list[str] = []

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(SECRET)


@dataclasses.dataclass
class Classed:
    count: int
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(SECRET)


class Typed(TypedDict):
    count: int
    tags: list[str]


class Modelled(pydantic.BaseModel):
    count: int
    tags: list[str] = []

    @pydantic.field_validator("count")
    @classmethod
    def check(cls, count: int) -> int:
        if count < 0:
            raise ValueError(SECRET)
        return count


KINDS = {"struct": Structured, "dataclass": Classed, "typeddict": Typed, "pydantic": Modelled}


async def answers(io: portico.Realtime, *packets: str) -> list[Any]:
    """What is answered to events, whatever became of the ones before."""
    async with serving(io) as raw, raw.socket() as socket, raw.socket() as other:
        for each in (socket, other):
            await each.opened()
            await each.connect()
        found = []
        for packet in packets:
            await socket.send(packet)
            found.append(json.loads(str(await socket.next())[3:])[0])
        await other.send('421["echo",1]')  # nobody else has noticed
        await other.expect("431[1]")
        return found


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_decoded_and_what_does_not_fit_says_where(kind: str) -> None:
    io = realtime()
    got: list[Any] = []

    async def take(client: Any, name: str, item: Any) -> bool:
        got.append(item)
        return True

    take.__annotations__["item"] = KINDS[kind]
    io.on("take", take)
    good, wrong, deep, missing, other = await answers(
        io,
        '421["take","a",{"count":1,"tags":["x"]}]',
        '421["take","a",{"count":"many","tags":[]}]',
        '421["take","a",{"count":1,"tags":["x",5]}]',
        '421["take","a",{"tags":[]}]',
        '421["take","a",[1]]',
    )
    assert good is True
    item = got[0]
    assert (item["count"] if kind == "typeddict" else item.count) == 1
    assert isinstance(item, dict if kind == "typeddict" else KINDS[kind])
    assert len(got) == 1
    assert wrong["data"] == {"code": "argument", "argument": 2, "path": "$.count"}
    assert wrong["error"].startswith("argument 2: ")
    assert deep["data"] == {"code": "argument", "argument": 2, "path": "$.tags[1]"}
    assert (missing["data"]["code"], other["data"]) == ("argument", {"code": "argument", "argument": 2, "path": "$"})


@pytest.mark.parametrize("kind", ["struct", "dataclass", "pydantic"])
async def test_what_the_applications_own_validation_says_stays_with_the_server(kind: str) -> None:
    io = realtime()

    async def take(client: Any, item: Any) -> None: ...

    take.__annotations__["item"] = list[KINDS[kind]]  # type: ignore[misc] # a type made here
    io.on("take", take)
    (answer,) = await answers(io, '421["take",[{"count":1},{"count":-1}]]')
    assert SECRET not in json.dumps(answer)
    assert KINDS[kind].__name__ not in json.dumps(answer)
    assert answer["error"].startswith("argument 1: not valid - at `$[1]")
    assert answer["data"]["path"] == ("$[1].count" if kind == "pydantic" else "$[1]")


async def test_a_refusal_in_a_validation_is_the_answer_and_another_failure_is_logged(logged: Logged) -> None:
    io = realtime()

    @dataclasses.dataclass
    class Item:
        count: int

        def __post_init__(self) -> None:
            if self.count == 1:
                raise portico.Refuse("one is taken", data={"code": "taken"})
            raise RuntimeError(SECRET)

    async def take(client: Any, item: Any) -> None: ...

    take.__annotations__["item"] = Item
    io.on("take", take)
    refused, failed = await answers(io, '421["take",{"count":1}]', '421["take",{"count":2}]')
    assert refused == {"error": "one is taken", "data": {"code": "taken"}}
    assert failed == {"error": "internal error"}
    logged.take("'take'")


async def test_plain_types_literals_and_bounds() -> None:
    io = realtime()

    @io.on("take")
    async def take(
        client: Any, size: Literal["s", "m"], count: Annotated[int, msgspec.Meta(ge=1, le=9)], note: str | None = None
    ) -> bool:
        return True

    found = await answers(
        io, '421["take","s",9]', '421["take","s",1,null]', '421["take","x",1]', '421["take","s",10]', '421["take","s"]'
    )
    assert found[:2] == [True, True]
    assert [answer["data"] for answer in found[2:]] == [
        {"code": "argument", "argument": 1, "path": "$"},
        {"code": "argument", "argument": 2, "path": "$"},
        {"code": "arguments"},
    ]


async def test_the_connect_handlers_auth_is_decoded_and_checked_too() -> None:
    io = realtime()
    got: list[Any] = []

    @io.on("connect")
    async def connect(client: Any, auth: Structured) -> None:
        got.append(auth)

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send('40{"count":"x"}')
        refused = json.loads(str(await socket.next())[2:])
        assert refused["data"] == {"code": "argument", "argument": 1, "path": "$.count"}
        await socket.connect(auth='{"count":1}')
        assert got == [Structured(1)]
