"""`nearfield compress`: a model made smaller by a recipe, and measured beside the one it was made of."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield.cli.options import add_device, new_folder
from nearfield.cli.quantize import COMPACT
from nearfield.core.config import format_bytes

if TYPE_CHECKING:
    from nearfield.compress.recipe import Evaluation

HELP = "make a model smaller by a recipe of stages: prune, distill, quantize"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder or hub id")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")
    parser.add_argument("--recipe", metavar="FILE", type=Path, required=True,
                        help="a file of TOML; the folder recipes/ has some")
    parser.add_argument("--calibration", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text like what the model will be used for, for stages that name none")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text to judge the result by, where the recipe's [evaluate] names none")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nearfield.bench.fidelity import check_text
    from nearfield.compress.compose import check_recipe_texts, compress_folder
    from nearfield.compress.device import open_device
    from nearfield.compress.recipe import read_recipe
    from nearfield.compress.stages import KINDS
    from nearfield.models.loader import find_model, weight_bytes

    recipe = read_recipe(args.recipe, KINDS, args.calibration, args.text)
    open_device(args.device)
    source, found = find_model(args.model), dict[str, Any]()
    with tqdm(disable=None, leave=False) as bar:     # shown on a terminal only
        shown = 0

        def show(number: int, done: int, total: int) -> None:
            nonlocal shown
            if number != shown:
                shown = number
                bar.reset(total)
                bar.initial = bar.n = done      # what an earlier run did took no time in this one
                bar.set_description(f"{number}/{len(recipe.stages)} {recipe.stages[number - 1].kind}", refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        def begin() -> None:
            seen = check_recipe_texts(source, recipe)
            if recipe.evaluate is not None:
                check_text(source, recipe.evaluate.texts, recipe.evaluate.tokens, seen)

        def finish(folder: Path) -> None:
            if recipe.evaluate is not None:
                found.update(_evaluated(source, folder, recipe.evaluate, args.out.name))

        compress_folder(source, args.out, recipe, device=args.device, begin=begin, finish=finish, progress=show)
    if found:
        from nearfield.cli.evaluate import table
        print(table(found))
    before, after = weight_bytes(source), weight_bytes(args.out)
    print(f"wrote {args.out}: {format_bytes(after)} of weights, {after / before:.0%} of before")
    if recipe.stages[-1].options.get("profile") == "compact":
        print(f"  {COMPACT}")
    return 0


def _evaluated(source: Path, folder: Path, evaluation: "Evaluation", name: str) -> dict[str, Any]:
    from nearfield.bench.fidelity_report import report_fidelity
    from nearfield.cli.evaluate import told

    return report_fidelity(source, folder, folder, evaluation.texts, evaluation.tokens, told,
                           lambda done, total: None, name)
