#!/usr/bin/env bash
# Sets up .venv, then runs every test: bash scripts/test.sh [pytest arguments]
# MNIST_DIR=folder-of-idx-files adds the tests that want MNIST.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev
# Two workers with one thread each use two cores better than torch's threads do.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Each begins with half of the files, so that few fixtures are made twice, and takes work from the other at the end.
exec python -m pytest --numprocesses 2 --dist worksteal "$@"
