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
        rounded = convert_folder(source, args.out, progress=show)
    exact = "rounded on the way:" if rounded else "all of the same numbers"
    print(f"wrote {args.out}: {format_bytes(weight_bytes(args.out))} of weights, {exact}")
    for found in rounded:
        many = "1 tensor" if found.tensors == 1 else f"{found.tensors} tensors"
        print(f"  {many}, {found.stored} to {found.made}: a relative error of {found.relative_error:.2g}")
    return 0
