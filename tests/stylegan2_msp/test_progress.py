"""Progress is shown on whatever stands for standard error."""

import sys

from stylegan2_msp import progress


class Logger:
    """What stylegan2-ada-pytorch puts in the place of standard error: it can be written to, and nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_stand_in_for_standard_error_gets_plain_lines(monkeypatch):
    logger = Logger()
    monkeypatch.setattr(sys, "stderr", logger)
    monkeypatch.setattr(progress, "_PLAIN_EVERY_SEC", 0)
    assert list(progress.track([1, 2], "reading", 4, "images", step=2)) == [1, 2]
    assert logger.text.startswith("reading: 2/4 images, ETA ")
