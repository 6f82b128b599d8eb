"""python -m stylegan2_msp: the same as the `stylegan2-msp` program."""

from stylegan2_msp.cli.main import entry

if __name__ == "__main__":
    entry()
