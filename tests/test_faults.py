"""A dozen of the faults of faults.py; `make faults` does 300."""
from __future__ import annotations

import json
import os
import subprocess
import sys

from conftest import HERE


def test_a_dozen_faults_lose_nothing():
    done = subprocess.run([sys.executable, os.path.join(HERE, "faults.py"), "--faults", "12", "--seed", "1"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert sum(figures["faults"].values()) == 12 and figures["jobs"]["accepted"] and figures["streams"]["masks"]
