# Hostwright's commands; the scripts in scripts/ do the work. `make` without a target lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-deep lint unit browser molecule test-matrix bench docs clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Set up this machine as a control node: .venv, Docker Engine, nothing else
	@scripts/setup

demo: ## Set up, create a sandbox host, deploy app/ to it, print its URL
	@scripts/demo

test: ## lint, unit, demo, browser; the scenario of the whole stack and one per role, on Debian 13 hosts
	@scripts/test

test-deep: ## The other scenarios: faults, kills, pushes, load, restores, HTTPS, several hosts
	@scripts/test deep

lint: ## ansible-lint, yamllint, ruff, mypy, shellcheck, antsibull-changelog (needs Python, make and git only)
	@scripts/test lint

unit: ## Tests without a host, and the tests of app/ (needs Python, make and git only)
	@scripts/test unit app

browser: ## Deploy to a fresh sandbox, vote in it with Chromium
	@scripts/test demo browser

molecule: ## Every Molecule scenario (one: molecule test -s NAME)
	@scripts/test molecule deep

test-matrix: ## Every Molecule scenario on Debian 12 and on Debian 13 hosts, the latter with the long run of kills
	@MOLECULE_DEBIAN=12 scripts/test molecule deep
	@HOSTWRIGHT_KILLS=full MOLECULE_DEBIAN=13 scripts/test molecule deep

bench: ## Measure, and rewrite docs/benchmarks.md (OPTIONS="--quick --only push": a quick run, without the file)
	@scripts/setup test
	@.venv/bin/python -m bench.run $(OPTIONS)

docs: setup ## Rewrite docs/variables.md from the argument specs
	@.venv/bin/python scripts/variables.py

clean: ## Remove all containers, images, volumes, networks and files of Hostwright on this machine
	@scripts/clean
