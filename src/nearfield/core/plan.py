"""A step of the engine as plain integers: what the scheduler decides and the runner computes.

A step is a list of rows. A row is one request's next piece: a chunk of its prompt, or its last
token. Rows of both kinds mix freely; there is no phase.
"""

from dataclasses import dataclass

from nearfield.core.types import PageId, RequestId, TokenId


@dataclass(frozen=True)
class Row:
    """Compute `token_ids` at positions start .. start+len-1, reading and writing K/V in `pages`.

    pages[i] holds positions i*page_size .. (i+1)*page_size-1; the list covers at least start+len
    positions. `sample` is true when the row reaches the end of what is known of its request, so
    that its last position's logits choose the next token. `score` asks for every position's logits.
    """

    request_id: RequestId
    token_ids: tuple[TokenId, ...]
    start: int
    pages: tuple[PageId, ...]
    sample: bool
    score: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True)
class StepPlan:
    """The rows of one step, and the requests that were set back to make room for them."""

    rows: tuple[Row, ...]
    preempted: tuple[RequestId, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(row.token_ids) for row in self.rows)
