"""Train the pocket model: text from rules and a seed, Nearfield's own model code, two CPU cores, no network.

    python scripts/train_pocket.py --out src/nearfield/assets/pocket

The batch of a step depends on the seed and the step's number alone, so a run that was cut off goes on
with --resume as if nothing had happened. At the end the saved bf16 weights are graded on held-out
questions; loss and accuracy of each kind are printed and written into the model card. The defaults made
the model that ships.
"""

import argparse
import os
import tempfile
from pathlib import Path


def main() -> None:
    """Read the options and do the job."""
    options = _options()
    # Threads that spin while they wait starve each other as soon as anything else runs on the machine;
    # OpenMP reads this when torch is imported, hence the late imports.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pocket.run import Job, run
    from pocket.training import Recipe

    command = f"python scripts/train_pocket.py --out {options.out} --steps {options.steps} --seed {options.seed}"
    run(Job(Path(options.out), Path(options.work), Recipe(steps=options.steps, seed=options.seed),
            options.threads, options.resume, command))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the model's folder; replaced when the new model is complete")
    parser.add_argument("--steps", type=int, default=2400, help="steps of 4,096 tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the text and the starting weights (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "nearfield-pocket"),
                        help="where checkpoints go, every 200 steps (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --work")
    return parser.parse_args()


if __name__ == "__main__":
    main()
