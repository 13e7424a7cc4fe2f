"""`nearfield distill`: a smaller model learns from the one it was made of."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield.cli.options import add_device, new_folder
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.compress.distill.lesson import Standing

HELP = "teach a pruned model to say what the model it was made of says"
GENERATE = "generate"
"""The word in the place of files of text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT", help="the folder of the model that learns, dense")
    parser.add_argument("out", metavar="OUT", type=new_folder, help="the folder to make")
    parser.add_argument("--teacher", metavar="MODEL", required=True,
                        help="the folder or hub id of the model that the student was made of, dense")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+", required=True,
                        help="UTF-8 text like what the model will be used for; or the word `generate`: the teacher "
                             "writes its own")
    parser.add_argument("--tokens", metavar="N", type=tokens, default=300_000,
                        help="tokens to train on, such as 300k or 2M; text that is shorter is read again "
                             "(default: 300k)")
    parser.add_argument("--block-local", action="store_true",
                        help="first each layer by itself, on as many tokens, from the teacher's hidden states; then "
                             "all of them")
    parser.add_argument("--learning-rate", metavar="R", type=float, default=1e-3,
                        help="the highest, after a tenth of the steps (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=seed, default=0,
                        help="of the order of the text, and of what the teacher writes (default: 0)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nearfield.compress.device import open_device
    from nearfield.compress.distill.folder import distill_folder
    from nearfield.compress.distill.plan import DistillOptions
    from nearfield.compress.report import REPORT, read_report
    from nearfield.models.loader import find_model

    options = DistillOptions(args.tokens, args.block_local, args.learning_rate, args.seed)
    open_device(args.device)
    student, teacher = find_model(args.student), find_model(args.teacher)
    with tqdm(unit="tok", unit_scale=True, disable=None, leave=False) as bar:     # shown on a terminal only
        distill_folder(student, teacher, args.out, options, _texts(args.text), device=args.device,
                       progress=_shown(bar))
    print(summary(args.out, read_report(args.out / REPORT)["distill"]["held_out_kl"]))
    return 0


def summary(out: Path, held_out: dict[str, Any]) -> str:
    """What came of it, for people."""
    line = (f"wrote {out}: held-out KL {held_out['before']:.4f} to {held_out['after']:.4f} in "
            f"{held_out['best_step']} steps")
    return line if held_out["stopped"] is None else f"{line}; stopped early: {held_out['stopped']}"


def tokens(text: str) -> int:
    """A number of tokens: 300000, 300k, 2M."""
    digits, factor = (text[:-1], {"k": 1000, "M": 1_000_000}[text[-1]]) if text[-1:] in ("k", "M") else (text, 1)
    try:
        value = float(digits) * factor
    except ValueError:
        value = 0.0
    if not math.isfinite(value) or value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens, such as 300000, 300k or 2M")
    return int(value)


def seed(text: str) -> int:
    """A whole number of 63 bits: a layer's own seed is a little more."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**63 - 1}")
    return value


def _texts(given: list[Path]) -> list[Path] | None:
    if Path(GENERATE) not in given:
        return given
    if len(given) > 1:
        raise ConfigError(f"--text {GENERATE} stands alone: the teacher writes all of the text; give files, or this "
                          "word")
    return None


def _shown(bar: Any) -> Callable[["Standing"], None]:
    stage = ""

    def show(standing: "Standing") -> None:
        nonlocal stage
        if standing.stage != stage:
            stage = standing.stage
            bar.set_description(stage, refresh=False)
            bar.reset(standing.total)
            bar.initial = bar.n = standing.done     # what an earlier run did took no time in this one
        if standing.loss is not None:
            bar.set_postfix(loss=f"{standing.loss:.4f}", held_out=f"{standing.held_out:.4f}", refresh=False)
        bar.update(standing.done - bar.n)
    return show
