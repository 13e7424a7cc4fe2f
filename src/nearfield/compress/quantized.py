"""Quantising a model as a user asks: by rounding alone, or by a method that looks at text."""

from collections.abc import Sequence
from pathlib import Path

from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.folder import Progress, quantize_folder
from nearfield.compress.plan import Target
from nearfield.compress.quantize.options import QuantizeOptions


def quantize_model(source: Path, out: Path, options: QuantizeOptions, texts: Sequence[Path] | None, *,
                   progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source`, quantised, to the new folder `out`.

    texts: files to calibrate on, or None. `progress`: tensors (without text) or inputs of layers done, and all.
    Raises as quantize_folder and quantize_calibrated do.
    """
    method, target = options.chosen(texts is not None), options.target()
    if texts is not None:
        quantize_calibrated(source, out, target, method, texts, device=options.device, progress=progress)
    elif isinstance(target, Target):        # a size is measured on text
        quantize_folder(source, out, target, progress=progress)
