"""What the tests of a federation share."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _quick_figure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing `rounds.png` after every round takes longer than all else; tests/commands looks at it."""
    if "figure" not in request.node.name:
        monkeypatch.setattr(
            "lightning_app.federated.server.record.rounds_chart", lambda *_, **__: Image.new("RGB", (8, 8))
        )
