"""Choosing threads and an instruction set, and what is said where that can not be."""

import os
import signal
import sys
import threading

import pytest
import torch

from nearfield.core.errors import ConfigError
from nearfield.kernels import cpu
from nearfield.kernels.cpu.kernels import CpuKernels


def test_options_are_kept() -> None:
    kernels = cpu.load(threads=3, isa="scalar")
    assert (kernels.threads, kernels.isa) == (3, "scalar")
    assert cpu.load().isa in cpu.ISAS


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="unknown isa 'avx511'.*did you mean 'avx512'"):
        cpu.load(isa="avx511")
    with pytest.raises(ConfigError, match=r"threads must be 1 to \d+, 8 for each CPU .*, not 0"):
        cpu.load(threads=0)


def test_isa_that_this_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfield.kernels.cpu._native.supported_isas", lambda: ["avx2", "scalar"])
    with pytest.raises(ConfigError, match="'avx512' is not supported.*it has avx2, scalar"):
        cpu.load(isa="avx512")


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nearfield.kernels.cpu._native", None)
    monkeypatch.delattr("nearfield.kernels.cpu._native")
    with pytest.raises(ConfigError, match="install a C\\+\\+17 compiler"):
        cpu.load()


def small(kernels: CpuKernels) -> torch.Tensor:
    codes = torch.ones(4096, 512, dtype=torch.int8)
    packed = kernels.pack_int8(codes, torch.ones(4096))
    return kernels.linear(torch.ones(4, 512), packed)


def test_threads_take_turns() -> None:
    kernels = cpu.load(threads=3)
    expected = small(kernels)
    results: list[torch.Tensor] = []
    callers = [threading.Thread(target=lambda: results.extend(small(kernels) for _ in range(20))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 60 and all(torch.equal(result, expected) for result in results)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told() -> None:
    kernels = cpu.load(threads=2)
    packed = kernels.pack_int8(torch.ones(4096, 512, dtype=torch.int8), torch.ones(4096))
    x = torch.ones(4, 512)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            kernels.linear(x, packed)
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
