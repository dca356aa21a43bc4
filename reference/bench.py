"""Frames/s of the reference in stream mode on random weights and frames, as JSON (the peer of `tv3s bench`).

    python3 reference/bench.py --arch mit_b1 --size 864x480 --frames 8 --threads 2

A model of one's own: --model model.pth --window 8 --shift 4. The first frame is a warm-up and not counted.
--device cuda, --dtype bf16 (autocast), --streams N (one frame of each at a time) and --compile (torch.compile of all but
the scan's token by token recurrence, which it would unroll) time it on a GPU, pixels up and labels down included.
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
    a, b = torch.randn(n, n, device="cpu"), torch.randn(n, n, device="cpu")
    best = 0.0
    for _ in range(4):
        t = time.perf_counter()
        a @ b
        best = max(best, 2 * n ** 3 / (time.perf_counter() - t) / 1e9)
    return best


def in_fp32(*args: torch.Tensor):
    return tv3s.selective_scan(*(t.float() for t in args))


@torch.no_grad()
def on_device(model: tv3s.TV3S, rgb: np.ndarray, args) -> list[float]:
    """Milliseconds of each step: the same frame of args.streams streams, from host pixels to host labels."""
    n = args.streams
    frames = torch.from_numpy(rgb).permute(0, 3, 1, 2).contiguous()
    if args.device == "cuda":
        frames = frames.pin_memory()
    tv3s.SCAN = in_fp32
    if args.compile:
        tv3s.SCAN = torch._dynamo.disable(in_fp32)
        tv3s.window_order = torch._dynamo.disable(tv3s.window_order)
        model.features = torch.compile(model.features)
        for layer in model.decode_head.vs.layers:
            layer.mixer.forward = torch.compile(layer.mixer.forward)
    ms, state = [], None
    if args.device == "cuda":
        torch.set_default_device("cuda")                                   # what forward makes: the windows' order
    with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bf16"):
        for frame in frames:
            t = time.perf_counter()
            x = frame.to(args.device, non_blocking=True).float().expand(n, 1, *frame.shape)
            logits, state = model(x, state)
            tv3s.upsample(logits[:, -1].float(), frame.shape[-2:]).argmax(1).to(torch.uint8).cpu()
            ms.append(1e3 * (time.perf_counter() - t))
    return ms[3:]


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
    a.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    a.add_argument("--streams", type=int, default=1)
    a.add_argument("--compile", action="store_true")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    more = dict(window=args.window, shift=args.shift)
    model = (tv3s.load(args.model, **more) if args.model else
             tv3s.TV3S(tv3s.config(args.arch, classes=args.classes, head=args.head, **more)).eval())
    w, h = map(int, args.size.split("x"))
    rgb = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (args.frames + 3, h, w, 3), dtype=np.uint8)
    ms, before = [], None
    if (args.device, args.dtype, args.streams, args.compile) != ("cpu", "f32", 1, False):
        ms = on_device(model.to(args.device), rgb, args)
    for _ in tv3s.run(model, rgb[:-2], "stream") if not ms else ():
        now = time.perf_counter()
        if before is not None:
            ms.append(1e3 * (now - before))
        before = now
    print(json.dumps({"engine": "reference", "torch": torch.__version__, "machine": platform.machine(),
                      "arch": args.model or args.arch, "head": args.head, "size": args.size, "threads": args.threads,
                      "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
                      "dtype": args.dtype, "streams": args.streams, "compiled": args.compile,
                      "frames": len(ms), "frames_per_s": round(1e3 * args.streams * len(ms) / sum(ms), 4),
                      "ms_p50": round(float(np.percentile(ms, 50)), 2), "ms_p99": round(float(np.percentile(ms, 99)), 2),
                      "matmul_gflops": round(matmul_gflops(), 1)}))


if __name__ == "__main__":
    main()
