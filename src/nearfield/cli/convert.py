"""`nearfield convert`: a GGUF file, or a folder of AWQ or GPTQ, as a standard folder of codes."""

import argparse

from nearfield.cli.options import new_folder
from nearfield.cli.progress import shown
from nearfield.core.config import format_bytes

HELP = "write a GGUF file, or an AWQ or GPTQ folder, as a standard folder (compressed-tensors)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or the folder or hub id of an AWQ or GPTQ model")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")


def run(args: argparse.Namespace) -> int:
    from nearfield.compress.convert import convert_folder
    from nearfield.models.loader import find_model, weight_bytes

    source = find_model(args.model)
    with shown("converting", "tensor") as show:
        errors = convert_folder(source, args.out, progress=show)
    exact = "its codes are the same numbers" if not errors else "codes that the format cannot hold are int8 now"
    print(f"wrote {args.out}: {format_bytes(weight_bytes(args.out))} of weights, {exact}")
    for kind, error in errors.items():
        print(f"  {kind}: int8, groups of 32, a relative error of {error:.2%}")
    return 0
