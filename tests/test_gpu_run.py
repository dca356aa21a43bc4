"""tests/gpu/run.py, where there is no GPU: its steps run on the CPU, and one that fails stops no other."""
from __future__ import annotations

import json
import os
import subprocess
import sys

from arithmetic import HERE, TV3S


def test_steps_are_reported_one_by_one(tmp_path):
    out = tmp_path / "gpu.json"
    done = subprocess.run([sys.executable, os.path.join(HERE, "gpu/run.py"), os.path.dirname(TV3S), "--device", "cpu",
                           "--size", "64x64", "--out", out, "--only", "machine", "parity mit_b0_clip4 f32",
                           "parity street f32", "decoders", "sanitizer memcheck"], capture_output=True, text=True)
    steps = json.loads(out.read_text())["steps"]
    assert done.returncode == 1, done.stderr                               # compute-sanitizer needs a GPU
    assert [name for name, step in steps.items() if not step["ok"]] == ["sanitizer memcheck"], done.stdout
    assert steps["parity mit_b0_clip4 f32"]["result"]["max"] <= 1e-3
    assert steps["parity street f32"]["result"]["equal_masks"] == 1
    assert steps["decoders"]["result"]["auto"]["decoder"] == "cpu" and steps["decoders"]["result"]["auto"]["frames"] > 1
