"""From the bytes of a request to a checked body: capped in size, strict in grammar.

orjson and not the standard library's parser: it refuses NaN, Infinity, lone surrogates and deep nesting,
each of which passes `json.loads` and fails later, inside the engine or while a reply is written.
"""

import asyncio
from typing import TypeVar

import orjson
from starlette.requests import Request

from nearfield.server.errors import ApiError, bad_request
from nearfield.server.schema import Strict, parse

MAX_BODY = 16 << 20
MAX_DISCARD = 128 << 20
"""Bytes of an oversized body that are read and dropped, so that its sender gets to read the 413."""
BODY_SECONDS = 30.0


LARGE = 64 << 10
"""Bodies above this are decoded off the event loop: nobody should wait for another client's megabytes."""

Body = TypeVar("Body", bound=Strict)


async def read_body(request: Request, schema: type[Body]) -> Body:
    """Read the body as `schema`. Raises ApiError: 413 too large, 408 too slow, 400 with what is wrong."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _read(request)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} s",
                       headers={"Connection": "close"}) from None
    if len(data) > LARGE:
        return await asyncio.to_thread(decode, data, schema)
    return decode(data, schema)


def decode(data: bytes, schema: type[Body]) -> Body:
    """Read JSON text as `schema`. Raises ApiError (400)."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    return parse(schema, body)


async def _read(request: Request) -> bytes:
    if int(request.headers.get("content-length", 0)) > MAX_DISCARD:
        raise _too_large()
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY:
            chunks.append(chunk)
        elif size > MAX_DISCARD:
            break
    if size > MAX_BODY:
        raise _too_large()
    return b"".join(chunks)


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MAX_BODY} bytes", code="body_too_large",
                    headers={"Connection": "close"})
