"""quantization_config: what is written is read again, what is not supported is refused by its name."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from nearfield.core.errors import ModelError
from nearfield.formats.manifest import Manifest, Scheme, quantization_config, read_manifest

PATH = Path("model/config.json")
W8, W4 = Scheme(8, None), Scheme(4, 64, packed=True)


def said(scheme: Scheme) -> dict[str, Any]:
    """The config of a model whose layers are all stored alike."""
    return quantization_config({"model.layers.0.mlp.up_proj": scheme, "model.layers.0.mlp.down_proj": scheme}, {})


def read(config: dict[str, Any]) -> Manifest:
    manifest = read_manifest({"quantization_config": config}, PATH)
    assert manifest is not None
    return manifest


def changed(scheme: Scheme, key: str, value: Any) -> dict[str, Any]:
    """The config of `scheme` with one key, of path `key`, set."""
    config = deepcopy(said(scheme))
    *path, last = key.split("/")
    at = config
    for part in path:
        at = at[part]
    at[last] = value
    return config


@pytest.mark.parametrize("scheme", [W8, W4, Scheme(4, 32, packed=True)], ids=str)
def test_what_is_written_is_read_again(scheme: Scheme) -> None:
    manifest = read(said(scheme))
    assert manifest.scheme("model.layers.3.mlp.up_proj") == scheme
    assert manifest.scheme("lm_head") is None
    assert manifest.scheme("model.embed_tokens", "Embedding") is None


def test_other_libraries_take_it() -> None:
    from compressed_tensors.quantization import QuantizationConfig

    for scheme in (W8, W4):
        read_by_library = QuantizationConfig.model_validate(said(scheme))
        group = read_by_library.config_groups["group_0"]
        assert not isinstance(group, list) and group.weights is not None
        assert (group.weights.num_bits, group.weights.group_size) == (scheme.bits, scheme.group)
        # What the library would write for it, with all of its own keys, is read to the same.
        assert read(read_by_library.model_dump()).scheme("x") == scheme


def test_a_folder_that_says_nothing_is_dense() -> None:
    assert read_manifest({}, PATH) is None and read_manifest({"quantization_config": None}, PATH) is None


def test_a_name_counts_before_a_pattern_and_a_pattern_before_a_class() -> None:
    config = said(W4)
    groups = config["config_groups"]
    for name, target, size in (("a", r"re:.*mlp\.", 32), ("b", "model.layers.1.mlp.up_proj", 128)):
        groups[name] = deepcopy(groups["group_0"])
        groups[name]["targets"], groups[name]["weights"]["group_size"] = [target], size
    manifest = read({**config, "ignore": ["lm_head", r"re:.*layers\.7\."]})
    found = {name: manifest.scheme(f"model.layers.{name}") for name in
             ("1.mlp.up_proj", "1.mlp.down_proj", "1.self_attn.q_proj", "7.mlp.up_proj")}
    assert [scheme and scheme.group for scheme in found.values()] == [128, 32, 64, None]


@pytest.mark.parametrize(("key", "value", "scheme"), [
    ("config_groups/group_0/weights/strategy", "channel", Scheme(4, None, packed=True)),
    ("config_groups/group_0/weights/actorder", "weight", W4),
    ("config_groups/group_0/weights/symmetric", False, Scheme(4, 64, symmetric=False, packed=True)),
    ("config_groups/group_0/format", "int-quantized", Scheme(4, 64)),
    ("sparsity_config", {}, W4),
    ("version", "0.9.1", W4),
])
def test_other_ways_to_say_it(key: str, value: Any, scheme: Scheme) -> None:
    config = changed(W4, key, value)
    if value == "channel":
        config["config_groups"]["group_0"]["weights"]["group_size"] = None
    assert read(config).scheme("x") == scheme


WEIGHTS, INPUTS = "config_groups/group_0/weights", "config_groups/group_0/input_activations"


@pytest.mark.parametrize(("key", "value", "message"), [
    ("quant_method", "fp8", "quant_method 'fp8' is not supported; supported: 'compressed-tensors', 'awq', 'gptq'"),
    ("format", "float-quantized", "format 'float-quantized' is not supported"),
    ("format", None, "format None is not supported"),
    ("kv_cache_scheme", {"num_bits": 8}, "kv_cache_scheme is set"),
    ("sparsity_config", {"format": "sparse-24-bitmask"}, "sparsity_config is set"),
    ("transform_config", {"config_groups": {}}, "transform_config is set"),
    ("config_groups", [], "config_groups must be an object"),
    ("config_groups/W8A8", ["Linear"], "config_groups.W8A8 must be an object"),
    ("ignore", "lm_head", "ignore must be a list of names"),
    ("ignore", ["re:("], "ignore holds 're:(', which is not a pattern"),
    ("config_groups/group_0/targets", None, "config_groups.group_0.targets must be a list"),
    ("config_groups/group_0/weights", None, "config_groups.group_0.weights must be an object"),
    ("config_groups/group_0/output_activations", {"num_bits": 8}, "group_0.output_activations is set"),
    (f"{WEIGHTS}/type", "float", "group_0.weights.type 'float' is not supported; supported: 'int'"),
    (f"{WEIGHTS}/num_bits", 3, "weights.num_bits 3 is not supported; supported: 4, 8"),
    (f"{WEIGHTS}/num_bits", None, "weights.num_bits None"),
    (f"{WEIGHTS}/strategy", "block", "weights.strategy 'block' is not supported"),
    (f"{WEIGHTS}/group_size", -2, "weights.group_size must be"),
    (f"{WEIGHTS}/group_size", None, "weights.group_size None does not go with strategy 'group'"),
    (f"{WEIGHTS}/actorder", "group", "weights.actorder 'group' is not supported"),
    (f"{WEIGHTS}/dynamic", True, "weights.dynamic True is not supported"),
    (f"{WEIGHTS}/rotation", 1, "weights.rotation is not known"),
    (INPUTS, {"num_bits": 8, "type": "float", "dynamic": True}, "input_activations.type 'float'"),
    (INPUTS, {"num_bits": 8, "dynamic": False}, "input_activations.dynamic False is not supported"),
    (INPUTS, 8, "input_activations must be an object"),
])
def test_what_is_not_supported_is_named_with_the_remedy(key: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(changed(W4, key, value))
    assert str(caught.value).startswith("model/config.json: quantization_config")
    assert message in str(caught.value) and "give the folder of the unquantised model" in str(caught.value)


def test_zero_points_are_of_four_bits_alone() -> None:
    with pytest.raises(ModelError, match="weights.symmetric false is supported for 4 bits"):
        read(changed(W8, f"{WEIGHTS}/symmetric", False))


@pytest.mark.parametrize("value", ["x", [1], 5])
def test_a_config_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(ModelError, match="quantization_config must be an object"):
        read_manifest({"quantization_config": value}, PATH)
