"""Some of what `make oom` does for every allocation, chosen by a seed; and that it sees what it looks for."""
from __future__ import annotations

import json
import random

import pytest

import oom
import oom_scenarios

SOME = 6


@pytest.mark.parametrize("name", [*(kind.__name__ for kind in oom_scenarios.SCENARIOS), "Start"])
def test_an_allocation_that_fails_is_answered_and_leaves_nothing(tiny_model, tmp_path, name):
    def choose(count: int, _) -> list[int]:
        return random.Random(1).sample(range(1, count + 1), min(count, SOME))
    result = oom.run(tiny_model, tmp_path / "run", choose, name)
    assert set(result) == {name} and oom.good(result), json.dumps(result, indent=1)
    assert result[name]["tried"] == SOME + 1 and result[name]["allocations"] > 10
    if name == "Segment":
        assert "503 /problems/out-of-memory" in result[name]["answers"]


def test_a_wrong_answer_is_found_out(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(oom_scenarios, "error_of", lambda answer: oom_scenarios.same(b"%d" % answer.status, b"500"))
    result = oom.run(tiny_model, tmp_path / "run", lambda count, _: range(1, count + 1), "Segment")
    wrong = result["Segment"]["wrong"]
    assert not oom.good(result) and any("on_whole" in " ".join(w["stack"]) for w in wrong), json.dumps(result)
    for w in wrong:  # what the daemon said then is there to be read
        assert w["said"] and w["said"] in open(w["log"]).read()[w["at"]:], w
