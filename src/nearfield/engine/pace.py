"""How many prompt tokens the next step may compute, so that running answers keep flowing."""


class Pace:
    """A fixed budget: a step computes `max_step_tokens` tokens, decode rows included.

    The adaptive one will take this place behind the same call: it fits a model of the step time (a
    constant, prompt tokens, decode rows, K/V read) while serving, and returns the largest budget
    whose predicted step stays within the target time per output token.
    """

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens

    def prefill_budget(self, decode_rows: int) -> int:
        """Prompt tokens to compute beside `decode_rows` rows: at least 1, so that prompts always progress."""
        return max(1, self._max_step_tokens - decode_rows)
