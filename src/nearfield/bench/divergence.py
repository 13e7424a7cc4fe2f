"""How far a model's answers are from another's, token by token, with intervals one can rely on.

KL needs no labels and resolves small changes; a perplexity by itself does not, its paired ratio does. The tokens of
a chunk depend on each other, so that intervals are bootstraps over chunks, not over tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DRAWS = 2000
BANDS = ((0.002, "near-lossless"), (0.011, "excellent"), (0.035, "good"), (0.075, "fair"))
"""Mean KL up to which a model counts as such: what the GGUF types q8_0, q5_K_M, q4_K_M and q4_0 cost an 8B model."""

_QUANTILE_DRAWS = 50
"""Draws whose tokens are sorted at once."""


def compare(base: Tensor, candidate: Tensor, targets: Tensor) -> Tensor:
    """For logits [T, V] of both and the true tokens [T]: KL(base || candidate) in nats, agreement on the likeliest
    token, and both log-probabilities of the true one, [4, T] fp64."""
    p, q = base.double().log_softmax(-1), candidate.double().log_softmax(-1)
    true = targets[:, None]
    return torch.stack([(p.exp() * (p - q)).sum(-1).clamp(min=0), (base.argmax(-1) == candidate.argmax(-1)).double(),
                        p.gather(1, true)[:, 0], q.gather(1, true)[:, 0]])


@dataclass(frozen=True)
class Bootstrap:
    """Draws of chunks with replacement, the same for the same seed."""

    picks: Tensor

    @classmethod
    def of(cls, chunks: int, seed: int = 0) -> "Bootstrap":
        return cls(torch.randint(chunks, (DRAWS, chunks), generator=torch.Generator().manual_seed(seed)))

    def means(self, values: Tensor) -> Tensor:
        """The mean [DRAWS] of values [chunks, T] in each draw."""
        return values.mean(1)[self.picks].mean(1)

    def quantiles(self, values: Tensor, share: float) -> Tensor:
        """A quantile [DRAWS] of values [chunks, T] in each draw."""
        parts = torch.split(self.picks, _QUANTILE_DRAWS)
        return torch.cat([quantile(values[part].flatten(1), share) for part in parts])


def figures(found: Tensor) -> dict[str, Any]:
    """What `compare` found in chunks of one length, [chunks, 4, T], as figures for JSON, 95 % intervals included.

    delta_p is the change of the true token's probability.
    """
    kl, same, base, candidate = found.unbind(1)
    draws = Bootstrap.of(len(found))
    square = (candidate.exp() - base.exp()).square()
    return {
        "tokens": kl.numel(),
        "kl": {"mean": rounded(kl.mean()), "ci95": interval(draws.means(kl)),
               "median": rounded(kl.median()), "median_ci95": interval(draws.quantiles(kl, 0.5)),
               "p99": rounded(quantile(kl.flatten(), 0.99)), "p99_ci95": interval(draws.quantiles(kl, 0.99)),
               "max": rounded(kl.max())},
        "top1_agreement": {"value": rounded(same.mean()), "ci95": interval(draws.means(same))},
        "perplexity": {"base": rounded((-base.mean()).exp()), "candidate": rounded((-candidate.mean()).exp()),
                       "ratio": rounded((base - candidate).mean().exp()),
                       "ci95": interval(draws.means(base - candidate).exp())},
        "rms_delta_p": {"value": rounded(square.mean().sqrt()), "ci95": interval(draws.means(square).sqrt())}}


def band(kl_high: float) -> str:
    """What a model is called whose mean KL is at most `kl_high`, the upper end of its interval."""
    return next((name for limit, name in BANDS if kl_high <= limit), "poor")


def interval(draws: Tensor) -> list[float]:
    """The middle 95 % of `draws`."""
    return [rounded(quantile(draws, share)) for share in (0.025, 0.975)]


def quantile(values: Tensor, share: float) -> Tensor:
    """The value that `share` of the last dimension's are at most, the next lower of those there are."""
    place = int(share * (values.shape[-1] - 1))
    return values.kthvalue(place + 1, -1).values


def rounded(value: Tensor) -> float:
    """Five digits: more would be noise."""
    return float(f"{float(value):.5g}")
