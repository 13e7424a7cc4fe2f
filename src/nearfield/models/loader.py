"""From a folder, or a hub id, to a model: finding the files, reading or inventing the weights."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from nearfield.core.config import DType, Weights
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.checkpoint import INDEX, Checkpoint
from nearfield.formats.dense import Dense
from nearfield.formats.gguf import SUFFIX
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Manifest, read_manifest
from nearfield.kernels.ops import OpTable
from nearfield.kernels.select import TORCH_DTYPES
from nearfield.models.compressed import CompressedWeights, stored_formats
from nearfield.models.decoder import Decoder, ModelWeights, build_decoder
from nearfield.models.gguf_checkpoint import GgufCheckpoint
from nearfield.models.gguf_folder import LINK, gguf_in, open_gguf, origin
from nearfield.models.inventory import EMBED, HEAD
from nearfield.models.pack_cache import NoPacks, open_packs
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.weights import DENSE, DenseWeights, Formats, WeightSource

_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
_UNWANTED = ["consolidated*", "*/*"]
"""Second copies of the weights in other forms, which many repositories hold."""


POCKET = "pocket"
"""The name of the model that ships with the package, where no folder here has it."""


def pocket_folder() -> Path:
    """The folder of the small model that ships with the package."""
    return Path(str(files("nearfield") / "assets" / "pocket"))


def find_model(model: str | Path | None) -> Path:
    """The folder of `model`: the pocket model for None, a local folder, a GGUF file (a folder made of it in the cache),
    or a hub id.

    A hub id ("owner/name") is looked up in the hub's local cache and fetched where that is allowed
    (HF_HUB_OFFLINE and HF_HOME are respected). Raises ModelError.
    """
    if model is None or (str(model) == POCKET and not Path(POCKET).is_dir()):
        return pocket_folder()
    if not str(model):
        raise ModelError("the model's name is empty; give a folder or a hub id, or leave it out for the pocket model")
    path = Path(model).expanduser()
    if path.is_dir():
        return path if (inner := gguf_in(path)) is None else open_gguf(inner)
    if path.is_file() and path.name.endswith(SUFFIX):
        return open_gguf(path)
    if path.name.endswith(SUFFIX) and not path.exists():
        raise ModelError(f"{path}: no such file")
    if path.exists():
        raise ModelError(f"{path}: is a file; give the model's folder, or a {SUFFIX} file")
    parts = str(model).split("/")
    if len(parts) != 2 or not all(parts) or str(model).startswith((".", "~")):
        raise ModelError(f"{model}: no such folder, and not a hub id of the form owner/name")
    return _from_hub(str(model))


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except LocalEntryNotFoundError:
        raise ModelError(f"{repo}: no such folder here, not in the hub's cache, and the hub cannot be "
                         "reached (or HF_HUB_OFFLINE is set)") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{repo}: cannot be fetched from the hub ({type(error).__name__}: {error})") from None


def open_checkpoint(folder: Path) -> Checkpoint | GgufCheckpoint:
    """The tensors of a folder: safetensors, or the GGUF file that it is made of. Raises ModelError."""
    return GgufCheckpoint(origin(folder)) if (folder / LINK).is_symlink() else Checkpoint(folder)


class CheckpointSource:
    """The weights of a folder. `unused` are the names that nobody asked for."""

    def __init__(self, folder: Path, dtype: torch.dtype, *, tied: bool) -> None:
        self._folder, self._checkpoint = folder, open_checkpoint(folder)
        self._dtype, self._tied = dtype, tied
        self._asked: set[str] = set()

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor. A tied checkpoint may keep its one table under either name."""
        name = self._name(name)
        self._asked.add(name)
        return self._checkpoint.read(name, shape, self._dtype)

    def kind(self, name: str) -> str:
        """How a tensor is stored: its dtype, or a type of GGUF's."""
        return self._checkpoint.kind(self._name(name))

    def _name(self, name: str) -> str:
        return HEAD if self._tied and name == EMBED and name not in self._checkpoint else name

    def files(self) -> tuple[Path, ...]:
        """The files that decide the model: config.json, the index where there is one, the weights."""
        described = (self._folder / name for name in ("config.json", INDEX))
        return (*filter(Path.exists, described), *self._checkpoint.files())

    def get_exact(self, name: str, shape: tuple[int, ...], dtypes: Collection[torch.dtype]) -> Tensor:
        """Read a tensor as it is stored, which must be in one of `dtypes`."""
        self._asked.add(name)
        return self._checkpoint.read_exact(name, shape, dtypes)

    def place(self, name: str) -> str:
        """The file of a tensor, and what the tensor is called there, for messages."""
        return self._checkpoint.place(HEAD if self._tied and name not in self._checkpoint else name)

    def unused(self) -> list[str]:
        """Tensors of the checkpoint that the model has no place for, save those known to be redundant, and biases of
        zeros, which some quantisers add."""
        return [name for name in self._checkpoint.names()
                if name not in self._asked and not is_redundant(name, tied=self._tied)
                and not (name.endswith(".bias") and not self._checkpoint.stored(name).any())]


def no_place(folder: Path, spec: ModelSpec, unused: Sequence[str]) -> str:
    """What is said of tensors that the model does not ask for."""
    return (f"{origin(folder)}: the model of this {spec.model_type} config has no place for {len(unused)} of the "
            f"tensors, the first {unused[0]}; give the config that belongs to the weights, or take these tensors out")


def weight_bytes(folder: Path) -> int:
    """Bytes of the files of weights in a folder."""
    return sum(file.stat().st_size for ending in ("safetensors", "gguf") for file in folder.glob(f"*.{ending}"))


def is_redundant(name: str, *, tied: bool) -> bool:
    """Whether a tensor says again what the model knows: a tied head, frequencies of rotation."""
    return (tied and name == HEAD) or name.endswith("rotary_emb.inv_freq")


class RandomSource:
    """Random weights of the right shapes, for measuring speed: nothing they say makes sense."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(seed)

    def place(self, name: str) -> str:
        """Its name: it is in no file."""
        return name

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Ones for norms, normal numbers of deviation 0.02 for everything else."""
        if len(shape) == 1 and name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype)
        return torch.empty(shape, dtype=self._dtype).normal_(0, 0.02, generator=self._generator)


@dataclass(frozen=True)
class Storage:
    """How a model's matrices come to be: packed in `formats`, save those that the folder stores as `manifest`
    says."""

    formats: Formats = DENSE
    manifest: Manifest | None = None

    def names(self, spec: ModelSpec) -> tuple[str, ...]:
        """The formats that the matrices of a model have, each once."""
        inner = (self.formats.inner.name,) if self.manifest is None else stored_formats(self.manifest, spec)
        return tuple(dict.fromkeys((*inner, self.formats.table.name)))

    def __str__(self) -> str:
        """In words, with what is rounded on the way."""
        if self.manifest is not None:
            return str(self.manifest)
        return "dense" if self.formats is DENSE else f"{self.formats.name}, rounded to nearest"


AS_IT_IS = Storage()


def weight_formats(weights: Weights, group: int | None = None) -> Formats:
    """The formats of --weights, with scales for `group` columns (None: a row in w8, 64 columns in w4). With
    both the table and the head are int8, a scale a row. Raises ConfigError."""
    if weights == "dense":
        return DENSE
    if weights == "w8":
        return Formats(Int8(group), Int8(), "w8" if group is None else f"w8 group {group}")
    size = Int4.GROUP if group is None else group
    return Formats(Int4(size), Int8(), f"w4 group {size}")


def choose_storage(config: Config, weights: Weights | None = None, group: int | None = None, *,
                   random_weights: bool = False) -> Storage:
    """The folder's own storage, or what --weights asks of one that stores its matrices dense. Of codes that are
    stored, too, the table and the head become int8. Random weights are as --weights says, whatever is stored.

    Raises ConfigError for a group that no format has, or where the folder's codes would be made again.
    """
    manifest = None if random_weights else stored_manifest(config)
    if manifest is not None and weights is not None:
        raise ConfigError(f"{origin(config.path.parent)}: is quantised already, as {manifest}; leave --weights out, "
                          "or give the folder that it was made of")
    if manifest is not None:
        return Storage(Formats(Dense(), Int8(), "stored"), manifest)
    return AS_IT_IS if weights in (None, "dense") else Storage(weight_formats(weights, group))


def stored_manifest(config: Config) -> Manifest | None:
    """The manifest of a folder, or of the GGUF file that it is made of; None where nothing is quantised. Raises
    ModelError."""
    manifest = read_manifest(config.data, config.path)
    return None if manifest is None else replace(manifest, place=str(origin(config.path.parent)))


def load_decoder(folder: Path, spec: ModelSpec, ops: OpTable, dtype: DType, positions: int, *,
                 storage: Storage = AS_IT_IS, random_weights: bool = False, pack_cache: bool = False,
                 progress: Callable[[int, int], None] = lambda done, total: None) -> Decoder:
    """The model in `folder`, with its weights or with random ones. Raises ModelError.

    A tensor that the model has no place for is an error: it would change the answers if it were used.
    pack_cache: keep quantised weights as the kernels read them, in the user's cache, for the next start.
    """
    torch_dtype = TORCH_DTYPES[dtype]
    if random_weights:
        invented: WeightSource = RandomSource(torch_dtype)
        return build_decoder(spec, DenseWeights(invented, ops, storage.formats), ops, positions, progress)
    checkpoint = CheckpointSource(folder, torch_dtype, tied=spec.tie_embeddings)
    dense = DenseWeights(checkpoint, ops, storage.formats)
    source: ModelWeights = dense
    if storage.manifest is not None:
        source = CompressedWeights(checkpoint, ops, storage.manifest, dense)
    kept = pack_cache and storage is not AS_IT_IS   # dense weights are at file speed as they are
    formats = {"formats": storage.formats.name, "dtype": dtype}   # config.json, of the key too, has the manifest
    packs = open_packs(checkpoint.files(), formats, ops) if kept else NoPacks()
    if (pack := packs.read()) is not None:
        return build_decoder(spec, pack, ops, positions, progress)
    with packs.write(source) as weights:
        decoder = build_decoder(spec, weights, ops, positions, progress)
        if unused := checkpoint.unused():
            raise ModelError(no_place(folder, spec, unused))
    return decoder
