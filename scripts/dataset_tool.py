"""Makes archives: python scripts/dataset_tool.py mnist --corrupt gaussian --dest mnistc.zip (see --help)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stylegan2_msp.cli import run
from stylegan2_msp.cli.dataset import dataset

if __name__ == "__main__":
    run(dataset)
