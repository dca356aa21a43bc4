"""Shared by the tests of the engine's arithmetic: the tool, golden cases and the bar that must be met."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TV3S = os.path.join(os.environ.get("TV3S_BUILD", os.path.join(HERE, "../build")), "tv3s")
sys.path[:0] = [os.path.join(HERE, "../reference"), os.path.join(HERE, "parity")]

LOGITS_BAR = {"f32": 1e-3, "bf16": 5e-2}                                   # max |difference| / std(logits)
MASKS_BAR = 0.9995                                                         # equal pixels, fp32


def tool(*args, check=True) -> subprocess.CompletedProcess:
    done = subprocess.run([TV3S, *map(str, args)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def convert(weights, out, *options) -> str:
    tool("convert", weights, "-o", out, *options)
    return out


def run(model, rgb, size: str, folder, *options) -> tuple[np.ndarray, np.ndarray]:
    """Grid logits and masks as `tv3s logits` writes them."""
    paths = os.path.join(folder, "engine.logits.npy"), os.path.join(folder, "engine.masks.npy")
    tool("logits", model, "--rgb", rgb, "--size", size, "--logits", paths[0], "--masks", paths[1], *options)
    logits, masks = map(np.load, paths)
    for path in paths:
        os.remove(path)
    return logits, masks


def distance(logits: np.ndarray, gold: np.ndarray) -> float:
    assert logits.shape == gold.shape and logits.dtype == gold.dtype == np.float32
    return float(np.abs(logits - gold).max() / gold.std())


def check(logits, masks, gold_logits, gold_masks, dtype: str = "f32") -> None:
    far = distance(logits, gold_logits)
    assert masks.shape == gold_masks.shape and masks.dtype == np.uint8
    same = float((masks == gold_masks).mean())
    print(f"max|dlogit|/std {far:.2e}, equal masks {100 * same:.4f} %")
    assert far <= LOGITS_BAR[dtype]
    assert same >= MASKS_BAR or dtype != "f32"


def instruction_sets() -> list[str]:
    """What --isa can name on this CPU."""
    flags = cpu_flags()
    wanted = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return ["baseline", *(name for name, need in wanted.items() if need <= flags)]


def cpu_flags() -> set[str]:
    with open("/proc/cpuinfo") as f:
        return {flag for line in f if line.startswith("flags") for flag in line.split(":")[1].split()}


def has_bf16() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())
