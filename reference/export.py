"""A training checkpoint without its optimiser, weights of two or more dimensions in 16 bits.

    python3 reference/export.py /tmp/train/b.pth street.pth [--dtype f16|bf16|f32]
    build/tv3s convert street.pth -o models/street.safetensors --window 8 --shift 4 --resize native

Vectors (norms, biases, D) and A_log stay fp32: they are a few percent of the bytes, and A_log sits in an exponent's
exponent.
"""
from __future__ import annotations

import argparse
from collections import OrderedDict

import torch

DTYPE = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def main() -> None:
    a = argparse.ArgumentParser(description="training checkpoint -> published layout in 16 bits")
    a.add_argument("source")
    a.add_argument("out")
    a.add_argument("--dtype", choices=DTYPE, default="f16")
    args = a.parse_args()
    saved = torch.load(args.source, map_location="cpu")
    state = OrderedDict((k, v.to(DTYPE[args.dtype]) if v.dim() > 1 and "A_log" not in k else v)
                        for k, v in saved["state_dict"].items())
    torch.save({"state_dict": state, "meta": saved["meta"]}, args.out)
    print(sum(v.numel() * v.element_size() for v in state.values()) / 1e6, "MB")


if __name__ == "__main__":
    main()
