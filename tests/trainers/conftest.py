"""What the tests of compiled components share."""

import pytest

from lecun_ablate.compiled import component


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """Objects are kept from one test to the next, but not in the user's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    component._outcome.cache_clear()
