"""The log line of a request."""

import logging

import pytest

from nearfield.server.trace import printable
from tests.server.serving import Serving, eventually


def test_a_line_tells_the_outcome_and_no_prompt(fake: Serving, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nearfield.access"):
        fake.chat(messages=[{"role": "user", "content": "a secret"}], max_tokens=1)
        fake.http.post("/v1/completions", json={"prompt": "a secret", "zzz": 1}, headers={"X-Request-Id": "me"})
        fake.http.get("/%0a%1b[31mroot")
        assert eventually(lambda: len(caplog.messages) == 3), "a line is written after the reply"
    first, second, third = caplog.messages
    assert first.startswith("POST /v1/chat/completions 200 ")
    assert second.startswith("POST /v1/completions 400 ") and second.endswith("id=me")
    assert third.startswith("GET /\\n\\x1b[31mroot 404 ")
    assert "secret" not in caplog.text


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\r\n\x1b\u202e\u00e9") == "a\\r\\n\\x1b\\u202e\\xe9"
    assert len(printable("x" * 10_000)) == 256
