"""Options that several commands share: what is given goes on, what is not stays the floor's below."""

import argparse

import pytest

from nearfield.cli.options import (
    add_engine,
    add_sampling,
    count,
    counts,
    engine_options,
    sampling_options,
    size,
)


@pytest.mark.parametrize(("text", "value"), [("1", (1,)), ("1,8,16", (1, 8, 16)), ("1, 2", (1, 2))])
def test_counts(text: str, value: tuple[int, ...]) -> None:
    assert counts(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_count_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
        count(text)


def test_size() -> None:
    assert size("2GiB") == 2 << 30
    with pytest.raises(argparse.ArgumentTypeError, match="'2 apples' is not a size"):
        size("2 apples")


def test_only_what_is_given_goes_on() -> None:
    parser = argparse.ArgumentParser()
    add_engine(parser)
    add_sampling(parser, max_tokens=7)
    args = parser.parse_args(["--kv-memory", "1MiB", "--temperature", "0"])
    assert engine_options(args) == {"dtype": "bf16", "kv_memory": 1 << 20}
    assert sampling_options(args) == {"max_tokens": 7, "temperature": 0.0}
