# make demo and make test set up all that they need; a second run reuses it.
VENV ?= .venv
PYTHON ?= python3
EXTRA ?= dev
# Two workers with one thread each: tests of small models gain nothing from more threads.
PYTEST_ARGS ?= -n 2 --dist loadgroup --randomly-seed=1
# A sample; all mutants without --count.
MUTATION_ARGS ?= --count 300

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-vit demo-cascade demo-mask2former demo-seg pictures bench soak \
	test test-fast study study-quick test-torch test-upstream mutation docs lint format \
	clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile
	@echo "Variables: VENV (.venv), PYTHON (python3), EXTRA (for setup), PYTEST_ARGS."

define need_python
	@command -v "$(PYTHON)" >/dev/null || { echo "Python is missing: there is no $(PYTHON) here; name one, as in make PYTHON=python3.11." >&2; exit 1; }
endef

# $(call set_up,EXTRA)
define set_up
	$(need_python)
	@"$(PYTHON)" tools/setup_env.py --venv "$(VENV)" --extra $(1)
endef

setup: ## Set up the environment only (EXTRA=demo, test, docs, dev or lint)
	$(call set_up,$(EXTRA))

demo: ## Pretrain, train a detector on handwritten digits, write metrics and pictures
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py

demo-vit: ## The same with a ViT with VanillaK, in the way of ViTDet
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py vit

demo-cascade: ## Cascade Mask R-CNN on the Swin of make demo
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py cascade

demo-mask2former: ## Mask2Former on the Swin of make demo
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py mask2former

demo-seg: ## UperNet on the Swin of make demo: a digit for every pixel
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py seg

pictures: ## Train what the pictures of README and docs show, and draw them into docs/images
	$(call set_up,demo)
	"$(VENV)/bin/python" tools/demo.py
	for key in None VanillaK SimpleK KUA; do \
		option=model.backbone.key.type=$$key; name=$$key; \
		if [ $$key = None ]; then option=model.backbone.key=None; name=linear; fi; \
		"$(VENV)/bin/python" tools/train.py configs/demo/pretrain_swin_nano_spatialk.py \
			--resume --work-dir work_dirs/pictures/$$name --cfg-options $$option || exit; \
	done
	"$(VENV)/bin/python" tools/misc/make_pictures.py
	"$(VENV)/bin/python" -m studies.report

bench: ## Measure time and memory on this CPU, and count for CUDA, into work_dirs/bench
	$(call set_up,test)
	for script in "backbone --vit-layers 3" key scaling detector; do \
		set -- $$script; name=$$1; shift; \
		"$(VENV)/bin/python" benchmarks/$$name.py "$$@" --device cpu --dtype float32 \
			--rounds 3 --json work_dirs/bench/cpu-$$name.json || exit; \
	done
	"$(VENV)/bin/python" benchmarks/plot.py work_dirs/bench/cpu-*.json
	"$(VENV)/bin/python" benchmarks/peers.py --device cpu --dtype float32 --json work_dirs/bench/peers.json
	"$(VENV)/bin/python" benchmarks/traffic.py --json work_dirs/bench/traffic.json

study: ## Does a manifold key help? All runs, then docs/study.md; goes on when interrupted
	$(call set_up,demo)
	"$(VENV)/bin/python" -m studies.run
	"$(VENV)/bin/python" -m studies.report

study-quick: ## The way of make study with little data, as a test of it
	$(call set_up,demo)
	"$(VENV)/bin/python" -m studies.run --quick

soak: ## Train 2,000 iterations on this CPU: do memory, handles or checkpoints grow?
	$(call set_up,demo)
	rm -rf work_dirs/soak/run
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(VENV)/bin/python" benchmarks/soak.py --json work_dirs/soak/checks.json

test: test-fast ## Run the whole test suite: the fast tests, then the slow ones
	OMP_NUM_THREADS=1 "$(VENV)/bin/python" -m pytest $(PYTEST_ARGS) -m slow

test-fast: ## Run the fast tests, all that are not marked slow, and show what they cover
	$(call set_up,test)
	OMP_NUM_THREADS=1 "$(VENV)/bin/python" -m pytest $(PYTEST_ARGS) -m "not slow" --cov

docs: ## Build the documentation into build/docs; warnings and dead internal links are errors
	$(call set_up,docs)
	"$(VENV)/bin/python" -m sphinx -W --keep-going -q -b html docs build/docs

test-torch: ## Run all tests on another torch, as in TORCH=2.14.1, in an environment of its own (not in CI)
	@test -n "$(TORCH)" || { echo "Name a version, as in make test-torch TORCH=2.14.1." >&2; exit 1; }
	$(need_python)
	venv="$(VENV)-torch$(TORCH)-$$("$(PYTHON)" -c 'import sys; print("py{}.{}".format(*sys.version_info))')" && \
		"$(PYTHON)" tools/setup_env.py --venv "$$venv" --extra test --torch "$(TORCH)" && \
		OMP_NUM_THREADS=1 "$$venv/bin/python" -m pytest $(PYTEST_ARGS)

test-upstream: ## Run tests on upstream's packages, in an environment of their own (not in CI)
	OMP_NUM_THREADS=1 "$(PYTHON)" tests/upstream/run.py --venv "$(VENV)-upstream" $(PYTEST_ARGS)

mutation: ## Break keys and attention in small ways, and see if tests notice (not in CI)
	$(call set_up,test)
	"$(VENV)/bin/python" -m pip install -q mutmut==3.8.1
	"$(VENV)/bin/python" tests/mutation/run.py $(MUTATION_ARGS)

lint: ## Check style and formatting
	$(call set_up,lint)
	"$(VENV)/bin/python" -m ruff check .
	"$(VENV)/bin/python" -m ruff format --check .

format: ## Mend style and formatting
	$(call set_up,lint)
	"$(VENV)/bin/python" -m ruff check --fix .
	"$(VENV)/bin/python" -m ruff format .

clean: ## Remove builds and caches (the environment and work_dirs stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage*
	find benchmarks configs mmmanikey studies tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
