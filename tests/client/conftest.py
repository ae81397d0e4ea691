"""The `peer` fixture: each of the four clients in turn."""

from __future__ import annotations

import pytest
from peers import KINDS, NAMES, Peer


@pytest.fixture(params=KINDS, ids=NAMES)
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(*request.param)
