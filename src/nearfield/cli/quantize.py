"""`nearfield quantize`: a model's folder with its matrices as int8 or int4 codes, for Nearfield and for vLLM."""

import argparse
from pathlib import Path

from nearfield.cli.options import add_device, new_folder, one_of, size
from nearfield.cli.progress import shown
from nearfield.core.config import format_bytes

HELP = "write a model again with int8 or int4 weights"
FORMATS = ("w8", "w4")
METHODS = ("rtn", "gptq", "awq", "auto")
PROFILES = ("vllm", "compact")
COMPACT = "neither transformers nor every vLLM reads int8 embeddings; `nearfield unpack` makes a folder that they read"
"""What there is to know of the profile compact."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder or hub id")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")
    parser.add_argument("--format", metavar="FORMAT", type=one_of(FORMATS),
                        help="w8: int8, a scale a row; w4: int4, a scale for each group of columns")
    parser.add_argument("--fit", metavar="SIZE", type=size,
                        help="instead of --format: files of weights of at most this size (300MB), int8 where the "
                             "calibration text shows that it is needed most, int4 elsewhere")
    parser.add_argument("--group", type=int, choices=(32, 64, 128),
                        help="columns that share a scale in w4 (default: 64)")
    parser.add_argument("--method", metavar="METHOD", type=one_of(METHODS),
                        help="rtn: round to nearest, each scale of the least squared error, without any text; gptq, "
                             "awq: the least error on calibration text; auto: the best of these for each input of "
                             "each layer (default: gptq with --calibration, else rtn)")
    parser.add_argument("--calibration", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text like what the model will be used for, some 40,000 words")
    parser.add_argument("--profile", metavar="PROFILE", type=one_of(PROFILES), default=PROFILES[0],
                        help="vllm: embeddings and head stay dense in the folder, as every vLLM reads them; compact: "
                             f"they are int8 there too: {COMPACT} (default: %(default)s)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from nearfield.compress.device import open_device
    from nearfield.compress.quantize.options import QuantizeOptions
    from nearfield.compress.quantized import quantize_model
    from nearfield.models.loader import find_model, weight_bytes

    options = QuantizeOptions(args.format, args.group, args.fit, args.method, args.profile, args.device)
    method = options.chosen(args.calibration is not None)
    open_device(args.device)
    source = find_model(args.model)
    unit = "tensor" if method == "rtn" else "input"
    with shown("quantising", unit) as show:
        quantize_model(source, args.out, options, args.calibration, progress=show)
    before, after = weight_bytes(source), weight_bytes(args.out)
    print(f"wrote {args.out}: {args.format or 'int8 and int4'}, {format_bytes(after)} of weights, "
          f"{after / before:.0%} of before")
    if args.profile == "compact":
        print(f"  {COMPACT}")
    return 0
