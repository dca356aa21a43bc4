"""Some seconds of what `make chaos` does for minutes."""
from __future__ import annotations

import json

import chaos


def test_clients_killed_at_random_leave_nothing_behind(tiny_model, tmp_path):
    result = chaos.run(tiny_model, tmp_path / "run", 8, 11)
    assert result["ok"], json.dumps(result, indent=2)
    assert result["kills"] > chaos.CLIENTS
