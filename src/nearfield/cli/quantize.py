"""`nearfield quantize`: a model's folder with its matrices as int8 or int4 codes, for Nearfield and for vLLM."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nearfield.cli.options import size
from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError, nearest

HELP = "write a model again with int8 or int4 weights"
FORMATS = ("w8", "w4")
METHODS = ("rtn", "gptq", "awq", "auto")
PROFILES = ("vllm", "compact")
DEVICES = ("cpu", "cuda")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder or hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    parser.add_argument("--format", metavar="FORMAT", type=_one_of(FORMATS),
                        help="w8: int8, a scale a row; w4: int4, a scale for each group of columns")
    parser.add_argument("--fit", metavar="SIZE", type=size,
                        help="instead of --format: files of weights of at most this size (300MB), int8 where the "
                             "calibration text shows that it is needed most, int4 elsewhere")
    parser.add_argument("--group", type=int, choices=(32, 64, 128),
                        help="columns that share a scale in w4 (default: 64)")
    parser.add_argument("--method", metavar="METHOD", type=_one_of(METHODS),
                        help="rtn: round to nearest, each scale of the least squared error, without any text; gptq, "
                             "awq: the least error on calibration text; auto: the best of these for each input of "
                             "each layer (default: gptq with --calibration, else rtn)")
    parser.add_argument("--calibration", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text like what the model will be used for, some 40,000 words")
    parser.add_argument("--profile", metavar="PROFILE", type=_one_of(PROFILES), default=PROFILES[0],
                        help="vllm: embeddings and head stay dense in the folder, as every vLLM reads them; compact: "
                             "they are int8 there too (default: %(default)s)")
    parser.add_argument("--device", metavar="DEVICE", type=_one_of(DEVICES), default=DEVICES[0],
                        help="where calibration computes: cpu, or cuda where there is one (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nearfield.models.loader import find_model

    method = args.method or ("rtn" if args.calibration is None else "gptq")
    _check(args, method)
    source = find_model(args.model)
    unit = "tensor" if method == "rtn" else "input"
    with tqdm(desc="quantising", unit=unit, disable=None, leave=False) as bar:   # shown on a terminal only
        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = done      # what an earlier run did took no time in this one
            bar.total = total
            bar.update(done - bar.n)
        _quantize(args, method, source, show)
    before, after = _weights_bytes(source), _weights_bytes(args.out)
    form = args.format or "int8 and int4"
    print(f"wrote {args.out}: {form}, {format_bytes(after)} of weights, {after / before:.0%} of before")
    return 0


def _check(args: argparse.Namespace, method: str) -> None:
    if (args.format is None) == (args.fit is None):
        raise ConfigError("give --format w8 or w4, or a size with --fit: one of the two")
    if args.fit is not None and args.group is not None:
        raise ConfigError("--group is of --format w4: --fit chooses groups itself; leave one of them out")
    if args.fit is not None and method == "rtn":
        raise ConfigError("--fit measures on text: give --calibration FILE, text like what the model will be used for, "
                          "and a method other than rtn")
    if args.format == "w8" and args.group is not None:
        raise ConfigError("--group is of w4: a w8 folder has one scale a row, as other engines read it; leave it out. "
                          "Groups in int8 are for serving: --weights w8 --group, on the dense folder")
    if method == "rtn" and args.calibration is not None:
        raise ConfigError("--calibration is of gptq, awq and auto: rtn looks at no text; leave one of them out")
    if method == "rtn" and args.device != DEVICES[0]:
        raise ConfigError("--device is of gptq, awq and auto: rtn takes a tensor at a time on the CPU; leave it out")
    if method != "rtn" and args.calibration is None:
        raise ConfigError(f"--method {method} looks at text: give --calibration FILE, text like what the model will be "
                          "used for")


def _quantize(args: argparse.Namespace, method: Any, source: Path, show: Callable[[int, int], None]) -> None:
    from nearfield.compress.calibrated import quantize_calibrated
    from nearfield.compress.fit import Fit
    from nearfield.compress.folder import quantize_folder
    from nearfield.compress.plan import Target

    if args.fit is not None:
        target: Target | Fit = Fit(args.fit, args.profile)
    else:
        target = Target(args.format, args.group or 64, args.profile)
    if method == "rtn":
        assert isinstance(target, Target)
        quantize_folder(source, args.out, target, progress=show)
    else:
        quantize_calibrated(source, args.out, target, method, args.calibration, device=args.device, progress=show)


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    """A type of argument that is one of `names`; the error of another has the nearest."""
    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown {text!r}{nearest(text, names)}; it is one of {', '.join(names)}")
        return text
    return check
