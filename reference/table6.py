"""The paper's Table 6 on unseen synthetic clips: quality by the number of frames of context.

Row c labels frame t by scanning frames t - c + 1 .. t from a zero state and keeping the last answer; `frame` is
c = 1, `stream` carries its state from the clip's first frame. As in the paper's 4.4 the first 32 frames of a clip are
not scored. Masks are written as PNG trees and scored by `tv3s eval`.

    python3 reference/table6.py models/street.safetensors                        through build/tv3s
    python3 reference/table6.py street.pth --engine reference --window 8 --shift 4
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import numpy as np

import synth

CONTEXTS = (1, 2, 4, 8, 16, 32)
SKIP = 32


# ------------------------------------------------------------------------- engines: rgb of a clip -> masks by row
def tv3s_engine(tool: str, model: str, device: str) -> Callable:
    """Masks by the C tool. A row's frame is one run of `tv3s logits` over its context, read at its last frame."""
    def stream(rgb: np.ndarray, folder: str, mode: str) -> np.ndarray:
        raw, out = os.path.join(folder, "in.rgb"), os.path.join(folder, "masks.npy")
        rgb.tofile(raw)
        subprocess.run([tool, "logits", model, "--rgb", raw, "--size", f"{rgb.shape[2]}x{rgb.shape[1]}", "--mode", mode,
                        "--device", device, "--threads", "1", "--masks", out], check=True, stdout=subprocess.DEVNULL)
        return np.load(out)

    def masks(rgb: np.ndarray) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            rows = {"frame": stream(rgb, folder, "frame")[SKIP:]}
            for c in CONTEXTS:
                rows[str(c)] = rows["frame"] if c == 1 else np.stack(
                    [stream(rgb[t - c + 1:t + 1], folder, "stream")[-1] for t in range(SKIP, len(rgb))])
            rows["stream"] = stream(rgb, folder, "stream")[SKIP:]
        return rows
    return masks


def reference_engine(path: str, window: int, shift: int) -> Callable:
    """The same by PyTorch; features once per frame, the contexts of many frames as one batch."""
    import torch
    import fastscan
    import tv3s
    torch.set_num_threads(1)
    fastscan.install()
    model = tv3s.load(path, window=window, shift=shift)

    @torch.no_grad()
    def masks(rgb: np.ndarray) -> dict[str, np.ndarray]:
        x, n, hw = torch.from_numpy(rgb).permute(0, 3, 1, 2).float(), len(rgb), rgb.shape[1:3]
        f = torch.cat([model.features(v) for v in x.split(8)])             # (n, E, h1, w1)

        def labels(logits):
            return np.concatenate([tv3s.upsample(v, hw).argmax(1).numpy().astype(np.uint8) for v in logits.split(8)])

        rows = {}
        for c in CONTEXTS:
            last = []
            for ts in torch.arange(SKIP, n).split(8):                      # 8 frames' contexts as clips of a batch
                clips = f[(ts[:, None] + torch.arange(1 - c, 1)).flatten()]
                last.append(model.decode_head.temporal(clips, c)[0][c - 1::c])
            rows[str(c)] = labels(torch.cat(last))
        rows["frame"] = rows["1"]
        rows["stream"] = labels(model.decode_head.temporal(f, n)[0])[SKIP:]
        return rows
    return masks


# -------------------------------------------------------------------------------------------------------- scores
def write_tree(root: str, video: str, masks: np.ndarray) -> None:
    os.makedirs(os.path.join(root, video), exist_ok=True)
    for i, m in enumerate(masks):
        synth.write_png(os.path.join(root, video, f"{i:05d}.png"), m)


def score(tool: str, predicted: str, truth: str) -> dict:
    """What `tv3s eval` says of a tree."""
    k = len(synth.CLASSES)
    out = subprocess.run([tool, "eval", predicted, truth, "--classes", str(k)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def main() -> None:
    a = argparse.ArgumentParser(description="quality by frames of context")
    a.add_argument("model")
    a.add_argument("--engine", choices=("tv3s", "reference"), default="tv3s")
    a.add_argument("--tool", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../build/tv3s"))
    a.add_argument("--device", default="cpu")
    a.add_argument("--window", type=int, default=8, help="of a .pth for --engine reference")
    a.add_argument("--shift", type=int, default=4)
    a.add_argument("--clips", type=int, default=20)
    a.add_argument("--frames", type=int, default=64)
    a.add_argument("--seed", type=int, default=5000, help="of the first clip; training uses none below 1000000")
    a.add_argument("--jobs", type=int, default=2, help="clips at a time")
    a.add_argument("--json", help="write the numbers here too")
    args = a.parse_args()
    engine = (tv3s_engine(args.tool, args.model, args.device) if args.engine == "tv3s" else
              reference_engine(args.model, args.window, args.shift))
    with tempfile.TemporaryDirectory() as root:
        def label(seed: int) -> None:
            rgb, lab = synth.Scene(seed).clip(range(args.frames))
            write_tree(os.path.join(root, "truth"), str(seed), lab[SKIP:])
            for row, masks in engine(rgb).items():
                write_tree(os.path.join(root, row), str(seed), masks)

        with ThreadPoolExecutor(args.jobs) as pool:
            for done, _ in enumerate(pool.map(label, range(args.seed, args.seed + args.clips)), 1):
                print(f"clip {done} of {args.clips}", file=sys.stderr, flush=True)
        rows = {row: score(args.tool, os.path.join(root, row), os.path.join(root, "truth"))
                for row in ("frame", *map(str, CONTEXTS), "stream")}
    print("| Frames of context | mIoU | mVC8 | mVC16 |\n|---|---|---|---|")
    for row, r in rows.items():
        print(f"| {row} | " + " | ".join(f"{100 * r[key]:.1f}" for key in ("mIoU", "mVC8", "mVC16")) + " |")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"model": os.path.basename(args.model), "engine": args.engine, "clips": args.clips,
                       "frames": args.frames, "first_seed": args.seed, "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()
