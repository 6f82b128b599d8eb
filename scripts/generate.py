"""Generate images at a chosen MSP; see --help. The same as `stylegan2-msp generate`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stylegan2_msp.cli import run
from stylegan2_msp.cli.generate import generate

if __name__ == "__main__":
    run(generate)
