"""The real model, once for all tests that need it."""

from __future__ import annotations

import pytest

from tl_widgets import HookedTransformer

ALIAS = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def raw():
    return HookedTransformer.from_pretrained_no_processing(ALIAS)


@pytest.fixture(scope="session")
def processed():
    return HookedTransformer.from_pretrained(ALIAS)
