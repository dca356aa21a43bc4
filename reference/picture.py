"""The README's picture: frames of an unseen clip, their truth, and what `tv3s segment` says in frame and stream mode.

    python3 reference/picture.py models/street.safetensors docs/street.png --seed 4242 --at 31,32,43,83
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageDraw

import synth

SCALE, GAP, LEFT = 2, 4, 84


def segment(tool: str, model: str, frames: str, mode: str, out: str) -> None:
    subprocess.run([tool, "segment", model, frames, "-o", out + "/", "--mode", mode, "--format", "png", "--quiet"],
                   check=True)


def colour(labels: np.ndarray) -> np.ndarray:
    return np.array(synth.PALETTE, np.uint8)[labels]


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("model")
    a.add_argument("out")
    a.add_argument("--seed", type=int, default=4242)
    a.add_argument("--at", default="31,32,43,83", help="frames to show")
    a.add_argument("--tool", default="build/tv3s")
    o = a.parse_args()
    at = [int(v) for v in o.at.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, synth.__file__, "--seed", str(o.seed), "--frames", str(max(at) + 1),
                        "-o", folder], check=True)
        frames = os.path.join(folder, "frames", f"{o.seed:05d}")
        rows = {"frame": frames, "truth": os.path.join(folder, "labels", f"{o.seed:05d}")}
        for mode in ("frame", "stream"):
            rows[f"--mode {mode}"] = os.path.join(folder, mode)
            segment(o.tool, o.model, frames, mode, rows[f"--mode {mode}"])
        names = sorted(os.listdir(frames))
        w, h = synth.W * SCALE + GAP, synth.H * SCALE + GAP
        sheet = Image.new("RGB", (LEFT + len(at) * w, len(rows) * h), "white")
        draw = ImageDraw.Draw(sheet)
        for y, (title, path) in enumerate(rows.items()):
            draw.text((4, y * h + h // 2), title, fill="black")
            for x, t in enumerate(at):
                picture = np.array(Image.open(os.path.join(path, names[t])))
                picture = picture if picture.ndim == 3 else colour(picture)
                tile = Image.fromarray(picture).resize((w - GAP, h - GAP), Image.NEAREST)
                sheet.paste(tile, (LEFT + x * w, y * h))
    sheet.save(o.out, optimize=True)


if __name__ == "__main__":
    main()
