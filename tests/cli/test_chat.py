"""The conversation: what is sent, what is remembered, what goes to stdout; and Ctrl-C."""

import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearfield.cli.chat import Chat, Timer
from nearfield.cli.main import main
from nearfield.cli.session import Session
from nearfield.core.errors import ContextLengthError
from nearfield.core.request import Output, SamplingParams
from nearfield.llm import LLM


@dataclass
class FakeLLM:
    """Answers word by word; `sent` holds the conversations, `closed` counts streams that were given up."""

    answer: tuple[str, ...] = ("Good", " day", ".")
    error: Exception | None = None
    interrupt_after: int | None = None
    sent: list[list[dict[str, Any]]] = field(default_factory=list)
    closed: int = 0
    template: object = object()

    @property
    def loaded(self) -> SimpleNamespace:
        return SimpleNamespace(name="fake", folder=Path("fake"), template=self.template)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        self.sent.append([dict(message) for message in messages])
        return (1, 2, 3)

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Iterator[Output]:
        if self.error is not None:
            raise self.error
        try:
            for index, word in enumerate(self.answer):
                if index == self.interrupt_after:
                    os.kill(os.getpid(), signal.SIGINT)
                yield Output("x", (7,), word, prompt_tokens=3, cached_tokens=2)
        except GeneratorExit:
            self.closed += 1
            raise


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    """The model that `nearfield chat` opens."""
    fake = FakeLLM()
    session = Session(cast(LLM, fake), SamplingParams())
    monkeypatch.setattr(Session, "open", lambda _args: session)
    return fake


def _talk(monkeypatch: pytest.MonkeyPatch, text: str, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(["chat", *options])


def test_turns_are_remembered(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    assert _talk(monkeypatch, "Hello\n\nAgain\n") == 0
    captured = capsys.readouterr()
    assert captured.out == "Good day.\nGood day.\n"
    assert captured.err.count(", 3 tokens,") == 2 and "2 of 3 prompt tokens cached" in captured.err
    assert llm.sent[1] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Again"},
    ]


def test_system_and_reset_start_anew(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    _talk(monkeypatch, "One\n/system Be brief.\nTwo\n/reset\nThree\n/system\nFour\n", "--system", "Be kind.")
    assert [[message["content"] for message in sent] for sent in llm.sent] == [
        ["Be kind.", "One"], ["Be brief.", "Two"], ["Be brief.", "Three"], ["Four"]]
    assert llm.sent[0][0]["role"] == "system"


def test_quit_leaves_at_once(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _talk(monkeypatch, "/quit\nHello\n") == 0
    assert not llm.sent


def test_unknown_command_is_named(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    _talk(monkeypatch, "/rest\n")
    captured = capsys.readouterr()
    assert "'/rest'" in captured.err and "'/reset'" in captured.err
    assert not llm.sent and captured.out == ""


def test_refused_question_is_forgotten(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(Session(cast(LLM, llm), SamplingParams()))
    llm.error = ContextLengthError("9 tokens are over 8")
    assert chat.handle("Hello")
    assert chat.turns == []
    assert "9 tokens are over 8" in capsys.readouterr().err


def test_interrupt_ends_the_answer_alone(llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    llm.interrupt_after = 1
    chat = Chat(Session(cast(LLM, llm), SamplingParams()))
    assert chat.handle("Hello")
    assert llm.closed == 1
    assert capsys.readouterr().out == "Good day\n"
    assert chat.turns[-1] == {"role": "assistant", "content": "Good day"}
    assert signal.getsignal(signal.SIGINT) is before


def test_model_without_template(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    llm.template = None
    assert _talk(monkeypatch, "Hello\n") == 2
    assert "no chat template" in capsys.readouterr().err


def test_timer_without_a_token() -> None:
    assert Timer().line() == "[no token]"
