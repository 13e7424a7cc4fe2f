"""Kernels of every instruction set that this processor has."""

from collections.abc import Iterator

import pytest

from nearfield.kernels import cpu

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels


@pytest.fixture(scope="session", params=_native.supported_isas())
def kernels(request: pytest.FixtureRequest) -> Iterator[CpuKernels]:
    """Two threads of one instruction set."""
    yield cpu.load(threads=2, isa=request.param)
