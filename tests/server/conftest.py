"""Servers that the tests of this folder talk to."""

from collections.abc import Iterator

import pytest

from tests.server.serving import Serving, serving


@pytest.fixture(scope="module")
def fake() -> Iterator[Serving]:
    """A server whose engine plays a script."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module", params=["fake", "pocket"])
def server(request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A server over the double, and over the real engine with the pocket model."""
    if request.param == "fake":
        with serving() as running:
            yield running
        return
    loaded = request.getfixturevalue("loaded_pocket")
    from nearfield.engine.loop import EngineLoop

    loop = EngineLoop(loaded.engine)
    loop.start()
    with serving(loaded, loop) as running:
        yield running
    loaded.engine.check()
