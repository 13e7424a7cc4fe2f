"""One chat or completion: from the bytes of the request to the last byte of its answer.

Raw body, its hash, decryption, payment, a limit on what the engine may generate, the engine, and the way back
(answer.py). The engine reads what the node has read: the body is written anew, so that a key that stands twice
can not mean one thing here and another there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.node.answer import Answer, Outlet
from nearfield.node.errors import NodeError
from nearfield.node.limits import Prompt, capped
from nearfield.node.parts import Parts
from nearfield.node.settlement import Settlement, Terms
from nearfield.node.wire import read_body, read_object, single_headers

MAX_BODY = 40 << 20
"""Encryption doubles a text, in hexadecimal."""
OWN_HEADERS = ("authorization", "x-signing-algo", "x-client-pub-key", "x-encryption-version", "x-encrypt-all-fields",
               "x-model-pub-key", "x-payments-signature", "payment-signature", "x-receipt-nonce")
# The engine has no business with the client's keys and payments, and a new body has another length.
WITHHELD = frozenset(name.encode() for name in OWN_HEADERS if name != "x-receipt-nonce") | {
    b"content-length", b"transfer-encoding", b"accept-encoding", b"expect"}
