"""An application for `test_command`: it says which process it runs in, and leaves a mark when it has stopped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    Path(os.environ["TEST_MARK"]).write_text("stopped")


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def home() -> dict[str, int]:
    return {"pid": os.getpid()}
