"""The fidelity of a folder beside the weights: a section of report.json, and report.html."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfield.bench.fidelity import Progress, run_fidelity
from nearfield.bench.fidelity_page import page
from nearfield.bench.workload import Report
from nearfield.compress.report import FIDELITY, REPORT, add_section, write_whole

PAGE = "report.html"


def report_fidelity(base: Path, candidate: Path, folder: Path, texts: Sequence[Path], tokens: int, report: Report,
                    progress: Progress, name: str | None = None) -> dict[str, Any]:
    """Measure as run_fidelity does, and write what it finds into `folder`, each file whole or not at all. Raises
    OSError where that cannot be.

    name: what the candidate will be called, where its folder is not called so yet.
    """
    result = run_fidelity(base, candidate, texts, tokens, report, progress)
    if name is not None:
        result["models"]["candidate"] = name
    write_whole(folder / PAGE, page(result))
    add_section(folder / REPORT, FIDELITY, result)
    return result
