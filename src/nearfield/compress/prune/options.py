"""What a user asks to be pruned, and the sizes that it comes to."""

from dataclasses import dataclass

from nearfield.core.errors import ConfigError
from nearfield.models.spec import ModelSpec

_STEPS = (128, 64, 32)
"""Widths are multiples of one of these: what kernels like, and what int4 shares scales in."""

_NEAR = 0.035
"""How far from the width asked for, as a share of the old one, a larger step may lead: 128 always counts from 1,856
channels on, and of 768 it makes 640 where 0.8 was asked, which w4 cuts into groups as it does by itself."""


@dataclass(frozen=True)
class PruneOptions:
    """What goes. ffn: the share of each MLP's channels that stays; layers, heads: how many layers, and key/value heads
    of each layer with their query heads, fewer (-4: four fewer). None: nothing of this kind.

    compensate: whether what stays takes over, by least squares, what went.
    """

    ffn: float | None = None
    layers: int | None = None
    heads: int | None = None
    compensate: bool = True

    def check(self, with_text: bool = True) -> None:
        """Raises ConfigError where nothing would go, or no text shows what can."""
        if self.ffn is None and self.layers is None and self.heads is None:
            raise ConfigError("there is nothing to prune; give --ffn, --layers or --heads")
        if not with_text:
            raise ConfigError("pruning looks at text: give --calibration FILE, text like what the model will be used "
                              "for")


@dataclass(frozen=True)
class Sizes:
    """How many of each there will be."""

    layers: int
    inner: int
    kv_heads: int


def sizes(spec: ModelSpec, options: PruneOptions) -> Sizes:
    """The sizes of the pruned model. Raises ConfigError where nothing would go, or nothing stay."""
    options.check()
    return Sizes(_fewer("--layers", "layers", spec.num_layers, options.layers),
                 spec.intermediate_size if options.ffn is None else _narrower(spec.intermediate_size, options.ffn),
                 _fewer("--heads", "key/value heads", spec.num_kv_heads, options.heads))


def _fewer(option: str, what: str, count: int, change: int | None) -> int:
    if change is None:
        return count
    if change >= 0:
        raise ConfigError(f"{option} says how many fewer: {option} -{change or 1}, not {change}")
    if count + change < 1:
        raise ConfigError(f"{option} {change}: the model has {count} {what}, and one must stay; " + (
            f"give {option} -{count - 1} at most" if count > 1 else f"leave {option} out"))
    return count + change


def _narrower(width: int, share: float) -> int:
    """The multiple of the largest step that comes near enough to what was asked."""
    if not 0 < share < 1:
        raise ConfigError(f"--ffn {share:g}: it is the share of channels that stays, between 0 and 1, such as 0.8")
    steps = [step for step in _STEPS if width % step == 0] or [1]
    near = [found for step in steps if abs((found := round(share * width / step) * step) - share * width)
            <= _NEAR * width]
    found = near[0] if near else round(share * width / steps[-1]) * steps[-1]
    if not 0 < found < width:
        raise ConfigError(f"--ffn {share:g}: of {width} channels, in steps of {steps[-1]}, {found} would stay; give "
                          f"a share from {steps[-1] / width:.3g} to {1 - steps[-1] / width:.3g}")
    return found
