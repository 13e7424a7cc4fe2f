"""`nearfield unpack`: a model of codes, or a GGUF file, as a folder of plain tensors again."""

import argparse

from nearfield.cli.options import new_folder
from nearfield.cli.progress import shown
from nearfield.core.config import format_bytes

HELP = "write a quantised model or a GGUF file again with dense weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder or hub id (compressed-tensors, AWQ, GPTQ), or a .gguf "
                                                       "file")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")


def run(args: argparse.Namespace) -> int:
    from nearfield.compress.unpack import unpack_folder
    from nearfield.models.loader import find_model, weight_bytes

    source = find_model(args.model)
    with shown("unpacking", "tensor") as show:
        unpack_folder(source, args.out, progress=show)
    print(f"wrote {args.out}: dense, {format_bytes(weight_bytes(args.out))} of weights")
    return 0
