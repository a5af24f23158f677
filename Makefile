# Two commands on a fresh machine: `make run` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV   := .venv
UV     := $(VENV)/bin/uv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

.PHONY: install run test test-fast test-cluster lint ui clean bench engine-gpu lock manifests

install: $(STAMP)

# uv from PyPI; hashes required; hard links from uv's cache keep a second environment nearly free.
$(STAMP): requirements.txt pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(PY) -m pip install --quiet --disable-pip-version-check "uv>=0.8,<1"
	$(UV) pip sync --quiet --python $(PY) --require-hashes --link-mode hardlink requirements.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

# make run [PRESET=nano] [IMAGES=<folder or s3:// prefix>] [CONFIG=<yaml laid over the preset>]
run: install
	@$(PY) -m orchestration.cli run $(if $(IMAGES),--images "$(IMAGES)") $(if $(PRESET),--preset "$(PRESET)") $(if $(CONFIG),--config "$(CONFIG)")

ui: install
	@$(PY) -m orchestration.cli ui $(if $(PORT),--port $(PORT))

clean:
	@test ! -x $(PY) || $(PY) -m orchestration.cli clean

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy orchestration assets training evaluation deploy infra

# Half of the tests' time is waiting for services and programs to start, hence two workers (tests/conftest.py deals).
PYTEST := $(PY) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

test-fast: lint
	$(PYTEST) -m "not line and not browser and not integration"

test: lint
	$(PYTEST) --durations 15

# The launcher's tests on the cluster that KUBECONFIG names; what pods run there is set by the variables that
# tests/cluster/given.py lists.
test-cluster: install
	@test -n "$(KUBECONFIG)" || { echo "KUBECONFIG names no cluster"; exit 2; }
	BACKDROP_TEST_CLUSTER="$(KUBECONFIG)" $(PY) -m pytest -q tests/cluster/test_launcher.py tests/cluster/test_faults.py

# make bench [NAME=curation|training|cluster|ship|operate]: one line per promise, `name: figure (bar …) met|missed`
bench: install $(if $(filter-out curation,$(NAME)),,$(VENV)-peers/.installed) \
		$(if $(filter-out training,$(NAME)),,$(VENV)-peers-training/.installed)
	@$(PY) -m tests.benchmarks $(NAME)

# On a machine with a GPU: PyTorch compiled, ONNX Runtime with CUDA and TensorRT, each where it is installed, built,
# checked and timed at the sizes of small and base. Without a GPU it says what was not run.
engine-gpu: install
	@$(PY) -m tests.benchmarks.engines_gpu

# What the benchmarks compare with, in an environment of its own: its versions of numpy and pillow are not ours.
$(VENV)-peers/.installed: pyproject.toml | install
	$(PYTHON) -m venv $(VENV)-peers
	$(UV) pip install --quiet --python $(VENV)-peers/bin/python cleanvision==0.3.7 daft==0.7.26
	@touch $@

# Diffusers beside this project's own torch: both sides of a comparison run in one process. The newest diffusers that
# takes this project's huggingface_hub, without dependencies: all it needs is there.
$(VENV)-peers-training/.installed: pyproject.toml | install
	$(PYTHON) -m venv $(VENV)-peers-training
	$(UV) pip install --quiet --python $(VENV)-peers-training/bin/python --no-deps diffusers==0.39.0 httpx==0.28.1 httpcore==1.0.9
	$(PY) -c "import site; print(site.getsitepackages()[0])" > \
		$$($(VENV)-peers-training/bin/python -c "import site; print(site.getsitepackages()[0])")/ours.pth
	@touch $@

# After a change of dagster.yaml or infra/kubernetes/dagster.production.yaml: the cluster's own.
manifests: install
	$(PY) -m infra.instance

# After a change of dependencies in pyproject.toml.
lock: install
	$(UV) pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes --extra dev --output-file requirements.txt pyproject.toml
