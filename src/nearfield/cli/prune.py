"""`nearfield prune`: a model's folder with fewer layers, narrower MLPs or fewer heads; still plain and dense."""

import argparse
from pathlib import Path

from nearfield.cli.options import add_device, new_folder
from nearfield.cli.progress import shown
from nearfield.core.config import format_bytes

HELP = "write a model again with layers, channels or heads taken out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder or hub id, of dense weights")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")
    parser.add_argument("--ffn", metavar="SHARE", type=float,
                        help="the share of each MLP's channels that stays: 0.8 takes a fifth out, as nearly as widths "
                             "that kernels like allow")
    parser.add_argument("--layers", metavar="-N", type=int, help="so many layers fewer: -4")
    parser.add_argument("--heads", metavar="-N", type=int,
                        help="so many key/value heads of each layer fewer, with their query heads: -1")
    parser.add_argument("--calibration", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text like what the model will be used for, some 40,000 words: it decides what can "
                             "go, and fits what stays")
    parser.add_argument("--no-compensate", dest="compensate", action="store_false",
                        help="leave the weights that stay as they were, to compare with")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from nearfield.compress.device import open_device
    from nearfield.compress.prune.folder import prune_folder
    from nearfield.compress.prune.options import PruneOptions
    from nearfield.compress.report import REPORT, read_report
    from nearfield.models.loader import find_model

    options = PruneOptions(args.ffn, args.layers, args.heads, args.compensate)
    options.check(args.calibration is not None)
    open_device(args.device)
    source = find_model(args.model)
    with shown("pruning", "layer") as show:
        prune_folder(source, args.out, options, args.calibration or (), device=args.device, progress=show)
    told = read_report(args.out / REPORT)["prune"]
    before, after, sizes = told["before"], told["after"], told["bytes"]
    share = sizes["after"] / sizes["before"]
    print(f"wrote {args.out}: {format_bytes(sizes['after'])} of weights, {share:.0%} of before")
    for what, name in (("layers", "layers"), ("channels of each MLP", "inner"), ("key/value heads", "kv_heads")):
        if before[name] != after[name]:
            print(f"{what}: {before[name]} to {after[name]}{_groups(after[name]) if name == 'inner' else ''}")
    if told["layers"]["dropped"]:
        print(f"layers taken out: {', '.join(map(str, told['layers']['dropped']))}")
    return 0


def _groups(width: int) -> str:
    """What the width means to int4, where it is not what `quantize` does by itself."""
    return "" if width % 64 == 0 or width % 32 else " (to quantise it to w4, give --group 32)"
