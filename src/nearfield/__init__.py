"""Nearfield: LLM inference for the nodes of NEAR's decentralised AI infrastructure.

`LLM` is imported on first use, so that `import nearfield` and the command line start without torch.
"""

from typing import TYPE_CHECKING, Any

from nearfield.core.request import SamplingParams

if TYPE_CHECKING:
    from nearfield.llm import LLM

__all__ = ["LLM", "SamplingParams"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from nearfield.llm import LLM

        return LLM
    raise AttributeError(f"module 'nearfield' has no attribute {name!r}")
