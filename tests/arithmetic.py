"""Shared by the tests of the engine's arithmetic: the tool, golden cases and the bar that must be met."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
TV3S = os.path.join(os.environ.get("TV3S_BUILD", os.path.join(HERE, "../build")), "tv3s")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")                        # as `make pytest` does
sys.path[:0] = [os.path.join(HERE, "../reference"), os.path.join(HERE, "parity")]

import tv3s                                                                # noqa: E402

LOGITS_BAR = 1e-3                                                          # fp32: max |difference| / std(logits)
MASKS_BAR = 0.9995                                                         # fp32: equal pixels


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


def check(logits, masks, gold_logits, gold_masks) -> None:
    """fp32 parity."""
    far = distance(logits, gold_logits)
    assert masks.shape == gold_masks.shape and masks.dtype == np.uint8
    same = float((masks == gold_masks).mean())
    print(f"max|dlogit|/std {far:.2e}, equal masks {100 * same:.4f} %")
    assert far <= LOGITS_BAR
    assert same >= MASKS_BAR


def rms(logits: np.ndarray, gold: np.ndarray) -> float:
    assert logits.shape == gold.shape
    return float(np.sqrt(np.square(logits - gold).mean()) / gold.std())


def bf16_logits(model, frames: np.ndarray, mode: str) -> np.ndarray:
    """What bfloat16 itself costs: the reference with the weights and inputs of its matrix products rounded, and the
    outputs that no residual or sum in fp32 takes; all sums in fp32, and the product that takes pixels. `model`
    (tv3s.TV3S) is changed."""
    def rounded(x):
        return x.bfloat16().float()

    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and getattr(module, "groups", 1) == 1:
            if isinstance(module, torch.nn.Conv2d) and module.in_channels == 3:
                continue
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: tuple(rounded(x) for x in args))
            if name.rpartition(".")[2] in {"q", "kv", "qkv", "sr", "fc1", "in_proj"}:
                module.register_forward_hook(lambda _, args, out: rounded(out))
    return np.stack([logits for logits, _ in tv3s.run(model, frames, mode, packed=True)])


def check_bf16(logits, gold_logits, model, frames, mode: str) -> None:
    """No bound fits all models: random weights amplify a rounding of 2^-9 a hundredfold. So the engine's error is
    held against that of the reference in the same arithmetic."""
    error, fair = rms(logits, gold_logits), rms(bf16_logits(model, frames, mode), gold_logits)
    print(f"rms of dlogit/std {error:.2e}, of the rounded reference {fair:.2e}")
    assert error <= 1.2 * fair


def instruction_sets() -> list[str]:
    """What --isa can name on this CPU."""
    flags = cpu_flags()
    avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    wanted = {"avx2": {"avx2", "fma"}, "avx512": avx512, "avx512_bf16": avx512 | {"avx512_bf16"}}
    return ["baseline", *(name for name, need in wanted.items() if need <= flags)]


def cpu_flags() -> set[str]:
    with open("/proc/cpuinfo") as f:
        return {flag for line in f if line.startswith("flags") for flag in line.split(":")[1].split()}


def has_bf16() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())
