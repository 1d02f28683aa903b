"""C++ that does not compile says why."""

from __future__ import annotations

import pytest

from thinkery.engine.native import kernels as sampling
from thinkery.errors import EnvironmentLacks
from thinkery.model.compiled import library
from thinkery.train import kernels as learning


@pytest.mark.parametrize("source", [sampling.SOURCE, learning.SOURCE], ids=["sampling", "learning"])
def test_what_the_compiler_says_reaches_the_user(source, tmp_path, monkeypatch):
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'no such instruction' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match="do not compile") as raised:
        library.__wrapped__(source)
    assert "no such instruction" in str(raised.value)
    assert not list((tmp_path / "thinkery").iterdir())
