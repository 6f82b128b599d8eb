#!/usr/bin/env bash
# Sets up .venv, then runs every test: bash scripts/test.sh [pytest arguments]
# MNIST_DIR=folder-of-idx-files adds the tests that want MNIST.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev
exec python -m pytest "$@"
