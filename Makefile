# Every target does its own set-up. EXTRA=gpu installs the CUDA build of vLLM instead of the CPU one.
PYTHON ?= python3
EXTRA ?= cpu
BIN := .venv/bin
STAMP := .venv/.installed-$(EXTRA)

# uv does not read pip's settings, so a local folder of wheels is handed on where one is configured.
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
else
TORCH := --torch-backend=$(if $(filter cpu,$(EXTRA)),cpu,auto)
endif
# The tests start hundreds of processes: what one has compiled the next one finds.
export PYTHONDONTWRITEBYTECODE :=
OVERRIDES := $(if $(filter cpu,$(EXTRA)),--overrides deploy/cpu-overrides.txt)

.PHONY: setup quickstart test check bench chaos clean
setup: $(STAMP)

$(STAMP): pyproject.toml deploy/cpu-overrides.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(TORCH) $(OVERRIDES) --editable '.[$(EXTRA),dev]'
	touch $@

quickstart: setup
	$(BIN)/rondo run configs/quickstart.yaml

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/unit -n 2

test: check
	$(BIN)/pytest tests/learner tests/people -n 2
	$(BIN)/pytest tests/integration -n 2 --dist loadscope --no-loadscope-reorder -m "not alone" --durations=40
	$(BIN)/pytest tests/integration -m alone --durations=10

bench: setup
	$(BIN)/rondo bench rollout
	$(BIN)/rondo bench loop
	$(BIN)/rondo bench plan
	$(BIN)/rondo bench judge
	$(BIN)/rondo bench reward
	$(BIN)/rondo bench learner
	$(BIN)/rondo bench label
	$(BIN)/rondo bench cluster

# NUM injections, NUM_VLLM of them more on vLLM: hours on two cores. The same command goes on where it was.
SEED ?= 17
NUM ?= 200
NUM_VLLM ?= 10
chaos: setup
	CHAOS_SEED=$(SEED) CHAOS_NUM=$(NUM) CHAOS_NUM_VLLM=$(NUM_VLLM) $(BIN)/pytest tests/chaos -s

clean:
	rm -rf .venv runs
