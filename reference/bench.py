"""Frames/s of the reference in stream mode on random weights and frames, as JSON (the peer of `tv3s bench`).

    python3 reference/bench.py --arch mit_b1 --size 864x480 --frames 8 --threads 2

A model of one's own: --model model.pth --window 8 --shift 4. The first frame is a warm-up and not counted.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np
import torch

import tv3s


def matmul_gflops(n: int = 2048) -> float:
    """GFLOP/s of a large fp32 matrix product in this process."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    best = 0.0
    for _ in range(4):
        t = time.perf_counter()
        a @ b
        best = max(best, 2 * n ** 3 / (time.perf_counter() - t) / 1e9)
    return best


def main() -> None:
    a = argparse.ArgumentParser(description="speed of the PyTorch reference")
    a.add_argument("--arch", default="mit_b1", choices=list(tv3s.ARCHS))
    a.add_argument("--model", help="a checkpoint, instead of --arch with random weights")
    a.add_argument("--head", default="tv3s", choices=("tv3s", "segformer"))
    a.add_argument("--classes", type=int, default=124)
    a.add_argument("--window", type=int, default=20)
    a.add_argument("--shift", type=int, default=10)
    a.add_argument("--size", default="864x480", help="WxH of the network's input and of the masks")
    a.add_argument("--frames", type=int, default=10)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    more = dict(window=args.window, shift=args.shift)
    model = (tv3s.load(args.model, **more) if args.model else
             tv3s.TV3S(tv3s.config(args.arch, classes=args.classes, head=args.head, **more)).eval())
    w, h = map(int, args.size.split("x"))
    rgb = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (args.frames + 1, h, w, 3), dtype=np.uint8)
    ms, before = [], None
    for _ in tv3s.run(model, rgb, "stream"):
        now = time.perf_counter()
        if before is not None:
            ms.append(1e3 * (now - before))
        before = now
    print(json.dumps({"engine": "reference", "torch": torch.__version__, "machine": platform.machine(),
                      "arch": args.model or args.arch, "head": args.head, "size": args.size, "threads": args.threads,
                      "frames": len(ms), "frames_per_s": round(1e3 * len(ms) / sum(ms), 4),
                      "ms_p50": round(float(np.percentile(ms, 50)), 2), "ms_p99": round(float(np.percentile(ms, 99)), 2),
                      "matmul_gflops": round(matmul_gflops(), 1)}))


if __name__ == "__main__":
    main()
