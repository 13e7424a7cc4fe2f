"""A model that is stored as codes, or in a GGUF file, opened to be written again: its tensors, and what they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.compress.report import digest, versions
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.checkpoint import dtype_name
from nearfield.formats.manifest import Manifest
from nearfield.kernels import select
from nearfield.models.compressed import CompressedWeights
from nearfield.models.gguf_folder import LINK, origin
from nearfield.models.inventory import Inventory, take_inventory
from nearfield.models.loader import CheckpointSource, no_place, stored_manifest
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.weights import DenseWeights

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Coded:
    """dtype: that of the model's numbers before they were codes, as config.json has it; bfloat16 where it is silent."""

    config: Config
    spec: ModelSpec
    manifest: Manifest
    dtype: torch.dtype
    source: CheckpointSource
    weights: CompressedWeights
    inventory: Inventory

    @property
    def folder(self) -> Path:
        return self.config.path.parent

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a dense folder of the model has."""
        found = self.inventory
        return {**found.tables, **{name: shape for parts in found.linears for name, shape in parts.items()},
                **{name: (size,) for name, size in found.vectors.items()}}

    def dense(self, name: str) -> Tensor:
        """One of these, in `dtype`. Raises ModelError for numbers that are none, or that `dtype` does not hold."""
        return self.rounded(name, self.floats(name))

    def floats(self, name: str) -> Tensor:
        """One of these, fp32. Raises ModelError for numbers that are none."""
        shape = self.shapes()[name]
        floats = self.weights.floats(name, (shape[0], shape[1])) if len(shape) == 2 else None
        floats = self.source.get(name, shape) if floats is None else floats
        if not bool(floats.isfinite().all()):
            raise ModelError(f"{self.source.place(name)} holds a number that is not finite; copy the file again")
        return floats

    def rounded(self, name: str, floats: Tensor) -> Tensor:
        """The numbers of one of these in `dtype`. Raises ModelError where it does not hold them."""
        made = floats.to(self.dtype)
        if not bool(made.isfinite().all()):
            remedy = ("convert the original model again with embeddings in BF16" if (self.folder / LINK).is_symlink()
                      else "make that bfloat16")
            raise ModelError(f"{self.source.place(name)} holds a number of the size {float(floats.abs().max()):.3g}, "
                             f"more than {dtype_name(self.dtype)}, the model's torch_dtype, can be; {remedy}")
        return made

    def described(self) -> dict[str, Any]:
        """config.json without the codes."""
        return {key: value for key, value in self.config.data.items() if key != "quantization_config"}

    def check_all_read(self) -> None:
        """Raises ModelError where the folder holds tensors that nobody asked for."""
        if unused := self.source.unused():
            raise ModelError(no_place(self.folder, self.spec, unused))

    def facts(self) -> dict[str, Any]:
        """What it was, for the report."""
        hashes: Mapping[str, str] = {file.resolve().name: digest(file) for file in self.source.files()}
        stored = str(self.manifest) if self.manifest.rules else "dense"
        return {"parent": {"name": origin(self.folder).resolve().name, "stored": stored, "sha256": hashes},
                "versions": versions()}


def open_coded(folder: Path) -> Coded:
    """The model in `folder`. Raises ConfigError for a folder that is dense already, ModelError for one that cannot be
    read."""
    config = Config.load(folder / "config.json")
    manifest = stored_manifest(config)
    if manifest is None and not (folder / LINK).is_symlink():
        raise ConfigError(f"{folder}: stores its matrices dense already; there is nothing to unpack or convert")
    spec, ops = read_spec(config), select.plain("fp32")
    dtype = _DTYPES.get(str(config.data.get("torch_dtype") or config.data.get("dtype")), torch.bfloat16)
    source = CheckpointSource(folder, torch.float32, tied=spec.tie_embeddings)
    manifest = manifest or Manifest((), ())
    weights = CompressedWeights(source, ops, manifest, DenseWeights(source, ops))
    return Coded(config, spec, manifest, dtype, source, weights, take_inventory(spec))
