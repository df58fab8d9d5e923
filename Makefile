# Everything a user or CI runs. What CI installs is for Python 3.11 or newer; riemopt needs 3.10.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# `make test-torch` has an environment for each torch and Python.
TORCH_VENV = .venv-torch-$(TORCH)-python$(shell $(PYTHON) -c \
	'import sys; print("%d.%d" % sys.version_info[:2])')
TORCH_BIN  = $(TORCH_VENV)/bin
# POGO, which the benchmark compares with, asks for torch 2.9.1.
TORCH_BENCH = $(if $(filter 2.6.% 2.7.% 2.8.% 2.9.0,$(TORCH)),bench-any-torch,bench)

.PHONY: help install demo docs test test-slow test-gpu test-torch test-frameworks test-page test-site release-check lint format catalogue notebooks clean

help:
	@echo "make demo       install, run the small benchmark on real data, print the page's path"
	@echo "make test       install and run the test suite"
	@echo "make test-slow  long runs, and the pairs of shape and dtype that make test leaves out"
	@echo "make test-gpu   what needs a GPU, with the torch, NumPy, pytest and hypothesis of PYTHON"
	@echo "make test-frameworks  Lightning, Hugging Face's Trainer, Accelerate and PEFT, which it installs"
	@echo "make test-torch TORCH=2.6.0 PYTHON=python3.10  the suite with that torch (some GB)"
	@echo "make docs       the site, into site/; warnings are errors"
	@echo "make test-page  the benchmark's page in headless Chromium, which must be there"
	@echo "make test-site  the site in headless Chromium: every page, search, both widths, dark"
	@echo "make release-check  build sdist and wheel, and try the wheel as a user would"
	@echo "make lint       ruff, formatting and mypy --strict"
	@echo "make format     rewrite the files in the project's format"
	@echo "make catalogue  write docs/catalogue.md from the classes, and its pictures"
	@echo "make notebooks  the notebooks from their text (notebooks/*.py), run, with their output"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,cluster,test,dev]'
	touch $@

demo: install
	$(BIN)/riemopt bench run --suite demo

test: install
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m slow --hypothesis-profile thorough -n 2 --dist worksteal

# Installs nothing: a machine with a GPU has a torch of its own.
test-gpu:
	$(PYTHON) -m pytest -m gpu tests/test_gpu*.py

test-frameworks: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[frameworks]'
	$(BIN)/python -m pytest tests/test_frameworks.py

docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "$(CURDIR)/site/index.html"

test-page: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest tests/test_bench_page.py

test-site: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site,browser]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m pytest tests/test_site.py

release-check: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	.ci/release-check

# Not with constraints.txt: each torch and Python has its own numpy, the newest that pip finds.
test-torch:
	@test -n "$(TORCH)" || { echo "Say which torch: make test-torch TORCH=2.6.0"; exit 2; }
	test -x $(TORCH_BIN)/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_BIN)/python -m pip install --quiet --upgrade pip
	$(TORCH_BIN)/python -m pip install --quiet torch==$(TORCH) --editable '.[$(TORCH_BENCH),test]'
	$(TORCH_BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

catalogue: install
	$(BIN)/python docs/make_catalogue.py --pictures

notebooks: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/jupytext --quiet --update --to ipynb notebooks/*.py
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams notebooks/*.ipynb

clean:
	rm -rf $(VENV) .venv-torch-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
