"""Trains a network: python scripts/train.py --data X.zip --cond-msp=1 (see --help)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stylegan2_msp.cli import run
from stylegan2_msp.cli.train import train

if __name__ == "__main__":
    run(train)
