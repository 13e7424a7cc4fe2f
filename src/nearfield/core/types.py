"""Names for the integers that pass between the floors. Standard library only."""

from enum import StrEnum

TokenId = int
"""Index into the vocabulary."""

PageId = int
"""Index of a page of the KV cache, 0 <= id < number of pages."""

RequestId = str
"""Unique among the requests that the engine holds."""


class FinishReason(StrEnum):
    """Why a request ended; the strings are OpenAI's, save `abort`, which no client sees."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
