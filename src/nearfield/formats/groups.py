"""Groups of columns that share a scale: the sizes that the kernels know, and the matrices that can be cut."""

from torch import Tensor

from nearfield.core.errors import ConfigError

GROUPS = (32, 64, 128)


def check_group(group: int) -> int:
    """`group`, or ConfigError where it is not one of GROUPS."""
    if group not in GROUPS:
        raise ConfigError(f"group must be one of {', '.join(map(str, GROUPS))}, got {group!r}")
    return group


def check_columns(dense: Tensor, group: int, remedy: str) -> None:
    """ConfigError where a matrix [N, K] cannot be cut into groups; `remedy`: what helps besides another group."""
    rows, columns = dense.shape
    if columns % group:
        raise ConfigError(f"a matrix of {rows} x {columns} cannot be cut into groups of {group} columns; "
                          f"choose another --group ({', '.join(map(str, GROUPS))}) or {remedy}")


def kernel_group(columns: int) -> int | None:
    """The largest group that so many columns are made of; None where there is none."""
    return next((group for group in sorted(GROUPS, reverse=True) if columns % group == 0), None)
