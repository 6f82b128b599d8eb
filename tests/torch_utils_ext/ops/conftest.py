"""The ways that a call can take through an operator."""

from __future__ import annotations

import pytest

from torch_utils_ext.ops import library


@pytest.fixture(params=["plain", "registered", "ref"])
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`impl` of a call that goes through plain PyTorch, the registered operator or the slow reference."""
    if request.param == "registered":
        monkeypatch.setattr(library, "takes_registered", lambda x: True)
    elif request.param == "plain":
        monkeypatch.setattr(library, "takes_registered", lambda x: False)
    return "ref" if request.param == "ref" else "auto"
