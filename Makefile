# make demo: a first study in two minutes · make test · make test-slow · make test-faults · make test-notebooks · make test-torch · make lint · make bench · make docs
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-faults test-notebooks test-torch lint bench docs

demo: .venv/installed
	$(BIN)/python -m experiments run elu.fig_2_median_activation --data digits --epochs 60 --runs 3 --workdir workdir/demo

test: .venv/installed-dev .venv/installed-notebooks
	$(BIN)/python -m pytest -n 2
	$(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=600 notebooks

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m slow

test-faults: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m faults tests/test_faults.py tests/test_launch.py tests/test_hosts.py tests/test_bucket.py

# Afresh and again: the second time nothing is trained.
test-notebooks: .venv/installed-dev .venv/installed-notebooks
	rm -rf notebooks/workdir
	$(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=600 notebooks
	touch notebooks/workdir/first
	$(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=600 notebooks
	test -z "$$(find notebooks/workdir -name result.json -newer notebooks/workdir/first)"
	$(BIN)/python -m pytest -m faults tests/test_notebooks.py

test-torch: .venv/installed-dev .venv/installed-torch
	$(BIN)/python -m pytest -n 2 tests/pytorch tests/test_benchmarks.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed-torch
	for name in mnist_mlp train_steps activations networks growth remat checkpoints start; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; done

docs: .venv/installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[data,report]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/installed-notebooks: .venv/installed
	$(BIN)/pip install --quiet --editable '.[notebooks]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

# The CPU build of PyTorch, with which networks and benchmarks are compared. PyPI's for Linux brings CUDA with it.
.venv/installed-torch: .venv/installed
	$(BIN)/pip install --quiet torch==2.13.0
	touch $@
