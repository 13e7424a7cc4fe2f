"""A node's options: defaults that serve for nothing, and errors that name the key."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ConfigError
from nearfield.node.config import NodeConfig, PricesConfig, parse_config, read_config


def test_without_a_file_a_node_is_free_and_has_no_tee() -> None:
    config = read_config(None)
    assert (config.payment, config.tee, config.prices, config.ledger) == ("free", "none", PricesConfig(), None)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('payment = "prepaid"\nusage_token_file = "~/token"\nnano_dollars_per_near = 3\n'
                    '[prices]\nprompt = "0.075"\ncached = "0.015"\n')
    assert read_config(file) == NodeConfig(
        payment="prepaid", usage_token_file=Path("~/token").expanduser(), nano_dollars_per_near=3,
        prices=PricesConfig(prompt="0.075", cached="0.015"))


@pytest.mark.parametrize(("text", "words"), [
    ('paymant = "free"', ["'paymant'", "did you mean 'payment'"]),
    ('[prices]\nprompts = "1"', ["'prices.prompts'", "'prompt'"]),
    ('[prices]\nprompt = 0.5', ["prices.prompt", "in quotes"]),
    ("ledger = 5", ["ledger", "in quotes"]), ("prices = 1", ["prices", "a table"]),
    ('payment = "gold"', ["payment", "free, prepaid, channel, both", "'gold'"]),
    ('payment = "channel"', ["channels", "nano_dollars_per_near"]),
    ('payment = "prepaid"', ["prepaid", "prices"]), ('[prices]\nprompt = "x"\n', ["prompt", "'x'"]),
    ('facilitator_url = "https://f"', ["facilitator_url", '"free"', '"prepaid"']),
    ('endpoint = "ftp://x"', ["endpoint", "https://"]), ("x = ", ["not TOML"]),
    ("nano_dollars_per_near = true", ["whole"]),
])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert all(word in str(caught.value) for word in (*words, str(file)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.toml")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats() | st.lists(st.integers())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(NodeConfig.__dataclass_fields__)), VALUES))
def test_any_table_is_options_or_an_error(table: dict[str, object]) -> None:
    try:
        parse_config(table)
    except ConfigError as error:
        assert str(error)


def test_the_options_that_the_documentation_shows_are_options() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "node.md").read_text("utf-8")
    shown = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    assert parse_config(shown).payment == "prepaid"
