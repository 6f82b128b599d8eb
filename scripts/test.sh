#!/usr/bin/env bash
# Sets up .venv, then runs every test: bash scripts/test.sh [pytest arguments]
# MNIST_DIR=folder-of-idx-files adds the tests that want MNIST.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev
# Two workers with one thread each use two cores better than torch's threads do.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest --numprocesses 2 "$@"
