"""What checkpoints cost an upload: `TV3S_BUILD=build checkpoints.py [ROUNDS]`. Three daemons beside each other, one without
checkpoints, one with the default of 2 seconds, one with a checkpoint a frame, take the same video in turn; medians."""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../parity")]
from daemon import Daemon  # noqa: E402

MODEL, CLIP = (os.path.join(ROOT, "models", name) for name in ("street.safetensors", "street.mp4"))
EVERY = ("3600", "2", "0")


def seconds(d: Daemon, clip: str) -> float:
    job = d.upload(clip, "?format=png")
    return job["finished"] - job["started"]


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = folder + "/clip.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "4", "-i", CLIP, "-c", "copy", clip], check=True)
        daemons = {every: Daemon(MODEL, f"{folder}/{every}", "--job-checkpoint", every) for every in EVERY}
        for d in daemons.values():
            seconds(d, clip)
        times: dict[str, list[float]] = {every: [] for every in EVERY}
        for _ in range(rounds):
            for every, d in daemons.items():
                times[every].append(seconds(d, clip))
        for d in daemons.values():
            d.stop()
    print(json.dumps({"job_checkpoint " + every: {"median": round(statistics.median(t), 3), "all": [round(x, 3) for x in t]}
                      for every, t in times.items()}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
