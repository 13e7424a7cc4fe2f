"""The small endpoints: what is served, whether it lives, its figures, and its tokenizer."""

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from nearfield.server.body import read_body
from nearfield.server.errors import Json
from nearfield.server.prompt import check_ids, encode_chat, encode_text
from nearfield.server.schema import DetokenizeBody, TokenizeBody
from nearfield.server.service import Service


async def health(service: Service, _request: Request) -> Response:
    """200 while the engine lives, also while it drains: a supervisor should not kill it then."""
    if not service.loop.alive:
        return Json({"status": "dead"}, status_code=503)
    return Json({"status": "draining" if service.loop.draining else "ok"})


async def ready(service: Service, _request: Request) -> Response:
    """200 while new requests are taken: for load balancers."""
    if service.loop.alive and not service.loop.draining:
        return Json({"status": "ready"})
    return Json({"status": "draining" if service.loop.alive else "dead"}, status_code=503)


async def about(_service: Service, _request: Request) -> Response:
    """The version of Nearfield."""
    return Json({"version": version("nearfield")})


async def models(service: Service, _request: Request) -> Response:
    """The one model that is served."""
    return Json({"object": "list", "data": [_model(service)]})


async def model(service: Service, request: Request) -> Response:
    """The model by its name, which may hold slashes."""
    service.require_model(request.path_params["name"])
    return Json(_model(service))


async def metrics(service: Service, _request: Request) -> Response:
    """Prometheus text."""
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def loads(service: Service, _request: Request) -> Response:
    """How busy the engine is, in the words of the router `smg`; what it does not ask for is left out."""
    now = service.loop.stats()
    used = max(0.0, 1 - (now.pages_free + now.pages_cached) / max(1, now.pages_total))
    load = {"dp_rank": 0, "num_running_reqs": now.running, "num_waiting_reqs": now.waiting,
            "num_total_reqs": now.running + now.waiting, "token_usage": round(used, 4),
            "cache_hit_rate": round(now.cached_tokens / max(1, now.prompt_tokens), 4)}
    return Json({"timestamp": datetime.now(UTC).isoformat(), "dp_rank_count": 1, "loads": [load]})


async def tokenize(service: Service, request: Request) -> Response:
    """Ids of a prompt, or of messages as a chat would see them."""
    body = await read_body(request, TokenizeBody)
    service.require_model(body.model or service.name)
    if body.messages is not None:
        tokens = await encode_chat(
            service, body.messages, tools=body.tools, variables=body.chat_template_kwargs,
            add_generation_prompt=body.add_generation_prompt is not False)
    else:
        add_special = body.add_special_tokens is not False
        tokens = await encode_text(service, body.prompt or "", add_special=add_special)
    return Json({"count": len(tokens), "max_model_len": service.max_context, "tokens": tokens})


async def detokenize(service: Service, request: Request) -> Response:
    """The text of ids, special tokens included."""
    body = await read_body(request, DetokenizeBody)
    service.require_model(body.model or service.name)
    check_ids(service, body.tokens, "tokens")
    text = await asyncio.to_thread(service.tokenizer.decode, body.tokens, skip_special=False)
    return Json({"prompt": text})


def _model(service: Service) -> dict[str, object]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "nearfield",
            "max_model_len": service.max_context}
