"""Measure how well a network does what it is asked; see --help. The same as `stylegan2-msp evaluate`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stylegan2_msp.cli import run
from stylegan2_msp.cli.evaluate import evaluate

if __name__ == "__main__":
    run(evaluate)
