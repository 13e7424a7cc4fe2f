# The doors of the project. Each needs Python 3.11+, git, make and a C++ compiler, and nothing else.

.PHONY: setup demo test check nightly clean

STAMP := .venv/.installed

setup: $(STAMP)

# Installed again only when what is installed, or how, has changed.
$(STAMP): pyproject.toml constraints.txt scripts/setup CMakeLists.txt $(wildcard cmake/* src/nearfield/kernels/cpu/csrc/*)
	scripts/setup
	touch $@

demo: $(STAMP)
	HF_HUB_OFFLINE=1 .venv/bin/python scripts/demo.py

test: $(STAMP)
	HF_HUB_OFFLINE=1 scripts/check

check: test

nightly: $(STAMP)
	HF_HUB_OFFLINE=1 scripts/check --slow

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
