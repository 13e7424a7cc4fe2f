"""A model opened by the options of a command line, for `generate` and `chat`."""

import argparse
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from nearfield.cli.options import engine_options, sampling_options
from nearfield.core.request import Output, SamplingParams
from nearfield.llm import LLM


@dataclass(frozen=True)
class Session:
    """A model, and how to choose its tokens."""

    llm: LLM
    params: SamplingParams

    @classmethod
    def open(cls, args: argparse.Namespace) -> "Session":
        """Load args.model. What the options do not say of sampling, the model's authors do."""
        SamplingParams(**sampling_options(args))    # a slip is told before a minute of loading
        llm = LLM(args.model, progress=True, **engine_options(args))
        return cls(llm, llm.loaded.generation.params(**sampling_options(args)))

    def stream(self, prompt_ids: Sequence[int]) -> Generator[Output]:
        """The answer to `prompt_ids`, step by step. Closing the generator cancels the rest."""
        yield from self.llm.stream(prompt_ids, self.params)
