"""Errors in OpenAI's shape. One place turns what went wrong below into a status and a message.

Messages that reach a client are written by us or name the client's own fields: no paths, addresses or
text of unexpected exceptions, which go to the log only.
"""

import random
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from nearfield.core.errors import (
    ContextLengthError,
    EngineStoppedError,
    InvalidRequestError,
    NearfieldError,
    QueueFullError,
)

RETRY_AFTER_SECONDS = (1, 5)
"""Range of the jittered Retry-After: clients that were refused together should not return together."""


class ApiError(Exception):
    """An answer that is an error: HTTP status, and OpenAI's message, type, param and code."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
                 headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}


class Json(Response):
    """A JSON reply, written by orjson: an infinite or missing number becomes null, never invalid JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def bad_request(message: str, param: str | None = None) -> ApiError:
    """400: the client's own mistake, in the field `param`."""
    return ApiError(400, message, param=param)


def unavailable(message: str, code: str) -> ApiError:
    """503 with a jittered Retry-After."""
    seconds = random.randint(*RETRY_AFTER_SECONDS)
    return ApiError(503, message, code=code, headers={"Retry-After": str(seconds)})


def from_engine(error: NearfieldError) -> ApiError:
    """What an error of the floors below means over HTTP."""
    match error:
        case ContextLengthError():
            return ApiError(400, str(error), param=error.param, code="context_length_exceeded")
        case InvalidRequestError():
            return bad_request(str(error), error.param)
        case QueueFullError():
            return unavailable(str(error), "queue_full")
        case EngineStoppedError():
            return unavailable(str(error), "engine_stopped")
    return ApiError(500, str(error), code="engine_error")


def error_body(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": _kind(error.status),
                      "param": error.param, "code": error.code}}


def error_response(error: ApiError) -> Json:
    """The whole reply for `error`."""
    return Json(error_body(error), status_code=error.status, headers=error.headers)


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


async def _on_api_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return error_response(error)


async def _on_engine_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, NearfieldError):
        raise error
    return error_response(from_engine(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route (404), no such method on a route (405)."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{error.detail}: {request.method} {request.url.path[:256]}"
    return error_response(ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    """Nobody reads this; the status is for the log (499: the client closed the connection)."""
    return Response(status_code=499)


async def _on_bug(_request: Request, _error: Exception) -> Response:
    """Starlette raises the exception again after this reply: it is logged, and the connection is closed."""
    return error_response(ApiError(500, "internal error; the server's log has the details",
                                   headers={"Connection": "close"}))


def handlers() -> dict[Any, ExceptionHandler]:
    """Exception handlers for the application."""
    return {ApiError: _on_api_error, NearfieldError: _on_engine_error, HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect, Exception: _on_bug}
