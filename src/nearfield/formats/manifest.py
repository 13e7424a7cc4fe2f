"""How a folder's matrices are stored, as its config.json says it: `quantization_config`.

It is read strictly: whatever changes what the codes mean, and is not known here, is refused by its name. Four methods
are known: compressed-tensors, which is also written, with the fewest keys, since other readers refuse those that they
do not know (its keys mean what they mean to the library, 0.20, `quantization/quant_config.py` and `quant_args.py`);
AWQ and GPTQ, as AutoAWQ and GPTQModel write them; and gguf, with which models/gguf_folder.py tells of a file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from nearfield.core.errors import ModelError

METHOD = "compressed-tensors"
AWQ, GPTQ, GPTQ_V2, GGUF = "awq", "gptq", "gptq_v2", "gguf"
EXACT_GGUF = {"Q4_0": 4, "Q8_0": 8}
"""The types of GGUF that a format here means the same as, and their bits."""
HEAD = "lm_head"
_INTS, _PACKED, _MIXED = "int-quantized", "pack-quantized", "mixed-precision"
_REMEDY = "give the folder of the unquantised model, or one that `nearfield quantize` made of it"
_WEIGHT_KEYS = {"num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "dynamic", "actorder",
                "observer", "observer_kwargs", "scale_dtype", "zp_dtype"}


@dataclass(frozen=True)
class Scheme:
    """How the weight of a linear layer is stored: codes of `bits` (4 or 8) and scales.

    `group` columns share a scale, or with None all columns of a row; with `per_tensor` the whole matrix does.
    packed: codes lie side by side in words of 32 bits (pack-quantized), otherwise one in a byte.
    layout: of another kind of folder than compressed-tensors, which (AWQ, GPTQ, GPTQ_V2), or a type of GGUF's.
    rounded: no format here means the same numbers; they are rounded again, to int8 in groups of 32.
    """

    bits: int
    group: int | None
    symmetric: bool = True
    packed: bool = False
    per_tensor: bool = False
    layout: str = METHOD
    rounded: bool = False

    @property
    def format(self) -> str:
        """The weight format that it becomes."""
        return "int8" if self.rounded else f"int{self.bits}"

    def __str__(self) -> str:
        if self.rounded:
            return f"{self.layout} rounded to int8, groups of 32"
        shared = "a scale a matrix" if self.per_tensor else (
            f"groups of {self.group}" if self.group else "a scale a row")
        return f"{self.format}, {shared}" + ("" if self.symmetric else ", with zero points")


@dataclass(frozen=True)
class Manifest:
    """Which layers are stored in which scheme. A target is a layer's name, `re:` and a pattern, or a class.

    place: the folder, or the file, that is stored so, for messages.
    """

    rules: tuple[tuple[str, Scheme], ...]
    ignore: tuple[str, ...]
    method: str = METHOD
    place: str = field(default="", compare=False)

    def scheme(self, module: str, kind: str = "Linear") -> Scheme | None:
        """The scheme of the layer called `module`, of class `kind`; None where it is stored dense.

        A rule of its name counts before a pattern, and a pattern before its class.
        """
        if any(_fits(target, module) or target == kind for target in self.ignore):
            return None
        named = [scheme for target, scheme in self.rules if target == module]
        matched = [scheme for target, scheme in self.rules if _fits(target, module)]
        classed = [scheme for target, scheme in self.rules if target == kind]
        return next(iter(named + matched + classed), None)

    @property
    def label(self) -> str:
        """In short, as --weights has it: w8, w4, or both."""
        return "+".join(f"w{bits}" for bits in sorted({scheme.bits for _, scheme in self.rules}))

    @property
    def rounded(self) -> tuple[str, ...]:
        """The kinds of codes that no format here means the same as, each once."""
        return tuple(dict.fromkeys(scheme.layout if self.method == GGUF else f"{scheme.layout} with desc_act"
                                   for _, scheme in self.rules if scheme.rounded))

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(str(scheme) for _, scheme in self.rules)) + f" ({self.method})"


def quantization_config(inner: Mapping[str, Scheme], tables: Mapping[str, Scheme],
                        dense: Sequence[str] = ()) -> dict[str, Any]:
    """What says in config.json how the layers' matrices are stored, all of them but `dense`, and those of the
    embeddings and the head that are stored as codes; by the names of modules.

    A byte a code with a scale a row asks for activations that become int8 a token, as others know it; of packed codes
    that is left to whoever serves.
    """
    groups: dict[str, dict[str, Any]] = {}
    for scheme in sorted(set(inner.values()), key=str):
        alike = ["Linear"] if len(set(inner.values())) == 1 else [name for name in inner if inner[name] == scheme]
        groups[f"group_{len(groups)}"] = _group(scheme, alike)
    for name, scheme in tables.items():
        # Readers of quantised embeddings look for the class; that of the head is that of all other layers.
        groups[f"group_{len(groups)}"] = _group(scheme, [name if name == HEAD else "Embedding"])
    layouts = {group["format"] for group in groups.values()}
    if len(layouts) == 1:
        for group in groups.values():
            del group["format"]
    return {"quant_method": METHOD, "format": layouts.pop() if len(layouts) == 1 else _MIXED,
            "quantization_status": "compressed", "config_groups": groups,
            "ignore": [*dense, *([] if HEAD in tables else [HEAD])],
            "kv_cache_scheme": None}


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    shared = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel"}
    weights = {"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric, **shared, "dynamic": False}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    return {"targets": targets, "weights": weights, "input_activations": None if scheme.packed else inputs,
            "output_activations": None, "format": _PACKED if scheme.packed else _INTS}


def read_manifest(config: Mapping[str, Any], path: Path) -> Manifest | None:
    """The manifest in `config`, the contents of the config.json at `path`; None where nothing is quantised.

    Raises ModelError, naming the key, for what is not supported.
    """
    data = config.get("quantization_config")
    return replace(_Reader(path).manifest(data), place=str(path.parent)) if data else None


@dataclass(frozen=True)
class _Reader:
    path: Path

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise ModelError(f"{self.path}: quantization_config{'.' if key else ''}{key} {problem}; {_REMEDY}")

    def table(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self.refuse(key, f"must be an object, is {value!r}")
        return value

    def names(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.refuse(key, f"must be a list of names, is {value!r}")
        for name in value:
            try:
                re.compile(name.removeprefix("re:"))
            except re.error:
                self.refuse(key, f"holds {name!r}, which is not a pattern")
        return tuple(value)

    def manifest(self, value: Any) -> Manifest:
        data = self.table("", value)
        method = data.get("quant_method")
        readers = {METHOD: self.compressed, AWQ: self.awq, GPTQ: self.gptq, GGUF: self.gguf}
        if not isinstance(method, str) or method not in readers:
            self.refuse("quant_method", f"{method!r} is not supported; supported: {', '.join(map(repr, readers))}")
        return readers[method](data)

    def awq(self, data: Mapping[str, Any]) -> Manifest:
        self.only(data, {"bits": (4,), "zero_point": (True,), "version": ("gemm", "GEMM")})
        kept = self.names("modules_to_not_convert", data.get("modules_to_not_convert") or [])
        # A name stands for all modules that have it somewhere in theirs.
        ignore = ("lm_head", *(f"re:.*{re.escape(name)}" for name in kept))
        scheme = Scheme(4, self.columns(data), symmetric=False, layout=AWQ)
        return Manifest((("Linear", scheme),), ignore, AWQ)

    def gptq(self, data: Mapping[str, Any]) -> Manifest:
        self.only(data, {"bits": (4, 8), "desc_act": (False, True, None), "lm_head": (False, True, None),
                         "static_groups": (False, True, None), "checkpoint_format": (None, GPTQ, GPTQ_V2)})
        for key in ("dynamic", "modules_in_block_to_quantize", "is_marlin_format"):
            if data.get(key):
                self.refuse(key, "is set, which is not supported")
        moved = bool(data.get("desc_act")) and not data.get("static_groups")
        scheme = Scheme(int(data["bits"]), self.columns(data), symmetric=data.get("sym") is not False,
                        layout=data.get("checkpoint_format") or GPTQ, rounded=moved)
        return Manifest((("Linear", scheme),), () if data.get("lm_head") else ("lm_head",), GPTQ)

    def gguf(self, data: Mapping[str, Any]) -> Manifest:
        modules = {name: str(kind) for name, kind in self.table("modules", data.get("modules")).items()}
        return Manifest(tuple((name, Scheme(EXACT_GGUF.get(kind, 8), 32, layout=kind, rounded=kind not in EXACT_GGUF))
                              for name, kind in modules.items()), (), GGUF)

    def columns(self, data: Mapping[str, Any]) -> int | None:
        """How many columns share a scale; None for all."""
        size = data.get("group_size")
        if isinstance(size, bool) or not isinstance(size, int) or size < -1 or size == 0:
            self.refuse("group_size", f"must be a number of columns, or -1 for all, is {size!r}")
        return None if size == -1 else size

    def only(self, data: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse other values of these keys."""
        for name, values in allowed.items():
            value = data.get(name)
            if not any(value is one or (type(value) is type(one) and value == one) for one in values):
                known = ", ".join(repr(one) for one in values if one is not None)
                self.refuse(name, f"{value!r} is not supported; supported: {known}")

    def compressed(self, data: Mapping[str, Any]) -> Manifest:
        if data.get("sparsity_config") and data["sparsity_config"] != {"format": "dense"}:
            self.refuse("sparsity_config", "is set: sparse weights are not supported")
        for key in ("kv_cache_scheme", "transform_config"):
            if data.get(key):
                self.refuse(key, "is set, which is not supported")
        groups = self.table("config_groups", data.get("config_groups"))
        rules = []
        for name, group in groups.items():
            key = f"config_groups.{name}"
            table = self.table(key, group)
            scheme = self.scheme(key, table, table.get("format") or data.get("format"))
            rules += [(target, scheme) for target in self.names(f"{key}.targets", table.get("targets"))]
        return Manifest(tuple(rules), self.names("ignore", data.get("ignore") or []))

    def scheme(self, key: str, group: Mapping[str, Any], layout: Any) -> Scheme:
        if layout not in (_INTS, _PACKED):
            self.refuse("format", f"{layout!r} is not supported; supported: {_INTS!r}, {_PACKED!r}")
        self.activations(key, group)
        at, weights = f"{key}.weights", self.table(f"{key}.weights", group.get("weights"))
        if unknown := weights.keys() - _WEIGHT_KEYS:
            self.refuse(f"{at}.{min(unknown)}", "is not known")
        for name, allowed in {"type": ("int", None), "num_bits": (4, 8), "symmetric": (True, False, None),
                              "dynamic": (False, None), "actorder": (None, False, "weight", "static")}.items():
            if weights.get(name) not in allowed:
                known = ", ".join(repr(value) for value in allowed if value is not None)
                self.refuse(f"{at}.{name}", f"{weights.get(name)!r} is not supported; supported: {known}")
        strategy, size = self.shared(at, weights)
        symmetric = weights.get("symmetric") in (None, True)
        scheme = Scheme(int(weights["num_bits"]), size, symmetric, layout == _PACKED, strategy == "tensor")
        if not scheme.symmetric and (scheme.bits == 8 or scheme.per_tensor):
            self.refuse(f"{at}.symmetric", "false is supported for 4 bits in groups or channels only")
        return scheme

    def shared(self, at: str, weights: Mapping[str, Any]) -> tuple[str, int | None]:
        """The strategy, and how many columns share a scale. Where it is not named, the group's size tells it."""
        size = weights.get("group_size")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < -1 or size == 0):
            self.refuse(f"{at}.group_size", f"must be a number of columns, is {size!r}")
        inferred = "tensor" if size is None else ("channel" if size == -1 else "group")
        strategy = weights.get("strategy") or inferred
        if strategy not in ("group", "channel", "tensor"):
            self.refuse(f"{at}.strategy", f"{strategy!r} is not supported; supported: 'group', 'channel', 'tensor'")
        if (strategy == "group") != (size is not None and size > 0):
            self.refuse(f"{at}.group_size", f"{size!r} does not go with strategy {strategy!r}")
        return strategy, size if strategy == "group" else None

    def activations(self, key: str, group: Mapping[str, Any]) -> None:
        """Activations become int8 as they are met, whatever is said here, so nothing else may be said."""
        if group.get("output_activations"):
            self.refuse(f"{key}.output_activations", "is set, which is not supported")
        inputs = group.get("input_activations")
        if inputs is None:
            return
        at = f"{key}.input_activations"
        for name, wanted in {"type": "int", "num_bits": 8, "symmetric": True, "dynamic": True}.items():
            value = self.table(at, inputs).get(name, wanted if name != "dynamic" else None)
            if value != wanted:
                self.refuse(f"{at}.{name}", f"{value!r} is not supported; supported: {wanted!r}")


def _fits(target: str, module: str) -> bool:
    pattern = target.removeprefix("re:")
    return target == module or (pattern != target and re.match(pattern, module) is not None)
