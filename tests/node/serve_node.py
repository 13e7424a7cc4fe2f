"""A process that serves the pocket model as a node, for tests of routers: prints its port, then its ed25519 address.

Free of charge, but the key `broke` has nothing left (402) and `busy` comes too often (429). Its first argument is
the node's home, its second the time of a token in seconds.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from nearfield.core.config import EngineConfig
from nearfield.core.errors import NearfieldError
from nearfield.core.request import Output, Request
from nearfield.engine.build import load_engine
from nearfield.engine.loop import EngineLoop
from nearfield.node.endpoints import Call, Endpoint, Endpoints, Reply
from nearfield.node.errors import NodeError
from nearfield.node.identity import create
from nearfield.node.middleware import Node
from nearfield.node.parts import Parts
from nearfield.node.signing import SignatureStore
from nearfield.proof.opening import open_notary
from nearfield.server.app import create_app
from nearfield.server.run import bind, serve
from tests.node.exchange_doubles import Anyone, Plain, Till
