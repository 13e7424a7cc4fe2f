"""From the codes of other makers (AWQ, GPTQ, GGUF) to the standard folder (compressed-tensors), packed.

int4 and its zero points go over as they are, and so does GGUF's Q8_0: int8 in groups of 32, which other engines know
as 8-bit weights without 8-bit activations (vLLM's W8A8 has a scale a row, and cannot hold it). Matrices that are
multiplied by as one get one scheme, since vLLM fuses them: int4 beside int8 becomes int8, which is exact. What the
standard cannot hold (GGUF's other types, GPTQ's reordered columns) is rounded to int8 in groups of 32, and what is not
a layer's to the model's dtype; the errors are told.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nearfield.compress.coded import Coded, open_coded
from nearfield.compress.dense_folder import make_dense
from nearfield.compress.folder import Progress
from nearfield.compress.plan import stored_name
from nearfield.core.errors import ConfigError
from nearfield.formats.checkpoint import Entry, dtype_name
from nearfield.formats.compressed import encode, encoded, split
from nearfield.formats.groups import kernel_group
from nearfield.formats.manifest import METHOD, Scheme, quantization_config
from nearfield.formats.shards import SHARD_BYTES
from nearfield.kernels.reference.quantized import dequantize
from nearfield.models.compressed import schemes_of
from nearfield.models.gguf_folder import origin

Parts = Mapping[str, tuple[int, int]]
_CHUNK = 1 << 22
"""Numbers that are compared at once."""


@dataclass(frozen=True)
class Rounded:
    """Tensors that were `stored` in one way, became another (`made`), and do not mean the same numbers any more.

    relative_error: the root of the mean squared error over that of the numbers before, in the mean of the tensors.
    """

    stored: str
    made: str
    tensors: int
    relative_error: float


def convert_folder(source: Path, out: Path, *, shard_bytes: int = SHARD_BYTES,
                   progress: Progress = lambda done, total: None) -> list[Rounded]:
    """Write the model in the folder `source` to the new folder `out`. `progress`: tensors done, and all.

    Returns what was rounded; nothing where all is exact. Raises ConfigError for a model that is not stored so, or
    where `out` cannot be written, ModelError for numbers that cannot be read, or that the model's dtype does not hold.
    """
    model = open_coded(source)
    if model.manifest.method == METHOD:
        kind = "in the standard form already" if model.manifest.rules else "stored dense"
        raise ConfigError(f"{origin(source)}: is {kind}; nothing is to be converted; nearfield unpack makes a dense "
                          "folder")
    return _Conversion(model).write(out, shard_bytes, progress)


class _Conversion:
    """The sets of matrices that become codes, each with the scheme that holds all of it."""

    def __init__(self, model: Coded) -> None:
        self._model = model
        tables = [{name: shape} for name, shape in model.inventory.tables.items()]
        sets: list[Parts] = [*model.inventory.linears, *tables]
        self._sets = [(parts, scheme) for parts in sets if (scheme := self._target(parts)) is not None]
        self._place = {name: i for i, (parts, _) in enumerate(self._sets) for name in parts}
        self._held: tuple[int, dict[str, Tensor]] = -1, {}
        self._errors: dict[str, tuple[tuple[str, str], float]] = {}

    def write(self, out: Path, shard_bytes: int, progress: Progress) -> list[Rounded]:
        model = self._model
        schemes = {name.removesuffix(".weight"): scheme for parts, scheme in self._sets for name in parts}
        tables = {name.removesuffix(".weight") for name in model.inventory.tables}
        dense = [name.removesuffix(".weight") for parts in model.inventory.linears for name in parts
                 if name not in self._place]
        described = {**model.described(), "quantization_config": quantization_config(
            {name: scheme for name, scheme in schemes.items() if name not in tables},
            {name: scheme for name, scheme in schemes.items() if name in tables}, dense)}
        entries = dict(self._entries())
        last, facts = next(reversed(entries)), model.facts()

        def made(name: str) -> Tensor:
            tensor = self._made(name)
            if name == last:
                model.check_all_read()
                facts["rounded"] = [asdict(rounded) for rounded in self.rounded()]
            return tensor

        make_dense(model.folder, out, described, entries, made, "convert", facts, shard_bytes=shard_bytes,
                   progress=progress)
        return self.rounded()

    def rounded(self) -> list[Rounded]:
        """What has been rounded until now."""
        kinds = {kind: [error for other, error in self._errors.values() if other == kind]
                 for kind, _ in self._errors.values()}
        return [Rounded(*kind, len(found), sum(found) / len(found)) for kind, found in kinds.items()]

    def _target(self, parts: Parts) -> Scheme | None:
        schemes = schemes_of(self._model.manifest, list(parts))
        if not schemes:
            return None
        columns = next(iter(parts.values()))[1]
        groups = [32 if scheme.rounded else kernel_group(scheme.group or columns) for scheme in schemes.values()]
        bits = max(8 if scheme.format == "int8" else 4 for scheme in schemes.values())
        symmetric = bits == 8 or all(scheme.symmetric for scheme in schemes.values())
        # A layout that cannot be read has no group; reading it says so.
        return Scheme(bits, min(group or 32 for group in groups), symmetric=symmetric, packed=True)

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        scales = self._scales()
        for name, shape in self._model.shapes().items():
            if name not in self._place:
                yield name, Entry(shape, self._model.dtype)
                continue
            scheme = self._sets[self._place[name]][1]
            for end, entry in encoded(scheme, shape[0], shape[1], scales).items():
                yield stored_name(name, end), entry

    def _scales(self) -> torch.dtype:
        """That of the scales of the first set; they are alike in all."""
        if not self._sets:
            return torch.float16
        return self._encoded(0)[stored_name(next(iter(self._sets[0][0])), "weight_scale")].dtype

    def _made(self, name: str) -> Tensor:
        module = name.rpartition(".")[0]
        place = self._place.get(f"{module}.weight")
        return self._dense(name) if place is None or name.endswith(".bias") else self._encoded(place)[name]

    def _dense(self, name: str) -> Tensor:
        floats = self._model.floats(name)
        made = self._model.rounded(name, floats)
        if error := _relative_error(made, floats):
            self._errors[name] = (self._model.source.kind(name), dtype_name(self._model.dtype)), error
        return made

    def _encoded(self, place: int) -> dict[str, Tensor]:
        if self._held[0] != place:
            self._held = place, self._encode(*self._sets[place])
        return self._held[1]

    def _encode(self, parts: Parts, scheme: Scheme) -> dict[str, Tensor]:
        columns = next(iter(parts.values()))[1]
        packed = self._model.weights.matrix({name: rows for name, (rows, _) in parts.items()}, columns)
        found: dict[str, Tensor] = {}
        for name, part in split(packed, parts).items():
            found |= {stored_name(name, end): tensor for end, tensor in encode(part, scheme).items()}
            stored = schemes_of(self._model.manifest, [name])[name]
            if stored.rounded and (floats := self._model.weights.floats(name, parts[name])) is not None:
                self._errors[name] = (stored.layout, "int8, groups of 32"), _relative_error(dequantize(part), floats)
        return found


def _relative_error(made: Tensor, floats: Tensor) -> float:
    """Of numbers [...] in any dtype, against those fp32 that they were."""
    pairs = zip(torch.split(made.flatten(), _CHUNK), torch.split(floats.flatten(), _CHUNK), strict=True)
    sums = [((one.double() - other).square().sum(), other.double().square().sum()) for one, other in pairs]
    error, size = (math.sqrt(sum(float(part) for part in parts)) for parts in zip(*sums, strict=True))
    return error / max(size, 1e-30)
