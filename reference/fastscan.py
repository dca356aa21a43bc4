"""scan.c as differentiable functions: what train.py puts in place of tv3s.selective_scan and tv3s.causal_conv.

The plain versions keep every state for autograd; these keep only their inputs. Compiled at first use.

    python3 reference/fastscan.py        checks value and gradients against the plain version
"""
from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile

import torch
from torch import Tensor

import tv3s

N, K = 16, 4                                                               # states and taps, fixed in scan.c
_lib = None


def compile_scan() -> ctypes.CDLL:
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scan.c")
    out = os.path.join(tempfile.mkdtemp(prefix="tv3s-scan-"), "scan.so")
    subprocess.run(["cc", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp", "-shared",
                    "-fPIC", source, "-o", out, "-lm"], check=True)
    return ctypes.CDLL(out)


def _call(f, sizes, tensors) -> None:
    f(*(ctypes.c_long(v) for v in sizes), *(ctypes.c_void_p(t.data_ptr()) for t in tensors))


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args: Tensor):                                       # b, dt, A, B, C, D, z, S
        args = [t.contiguous() for t in args]
        b, S = args[0], args[-1]
        y, after = torch.empty_like(b), torch.empty_like(S)
        _call(_lib.scan_forward, b.shape, [*args, y, after])
        ctx.save_for_backward(*args)
        return y, after

    @staticmethod
    def backward(ctx, gy: Tensor, gS: Tensor):
        args = ctx.saved_tensors
        b, dt, A, B, C, D, z, S = args
        gb, gdt, gz, gB, gC = (torch.empty_like(t) for t in (b, dt, z, B, C))
        gA, gD = A.new_empty(len(b), *A.shape), D.new_empty(len(b), *D.shape)
        gy, gS = gy.contiguous(), gS.clone(memory_format=torch.contiguous_format)
        _call(_lib.scan_backward, b.shape, [*args, gy, gb, gdt, gA, gB, gC, gD, gz, gS])
        return gb, gdt, gA.sum(0), gB, gC, gD.sum(0), gz, gS


class Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args: Tensor):                                       # a, tail, taps, bias
        args = [t.contiguous() for t in args]
        b = torch.empty_like(args[0])
        _call(_lib.conv_forward, b.shape, [*args, b])
        ctx.save_for_backward(*args)
        return b

    @staticmethod
    def backward(ctx, gb: Tensor):                                         # the tail is a constant here
        args = ctx.saved_tensors
        a, tail, taps, bias = args
        ga, gtaps, gbias = torch.empty_like(a), a.new_empty(len(a), *taps.shape), a.new_empty(len(a), *bias.shape)
        _call(_lib.conv_backward, a.shape, [*args, gb.contiguous(), ga, gtaps, gbias])
        return ga, None, gtaps.sum(0), gbias.sum(0)


def install() -> bool:
    """Puts the C versions in place when they can be compiled here; the plain ones stay otherwise."""
    global _lib
    try:
        _lib = compile_scan()
    except (OSError, subprocess.CalledProcessError) as e:
        print("plain scan:", e)
        return False
    scan, conv = tv3s.selective_scan, tv3s.causal_conv

    def fits(d: int, n: int) -> bool:
        return n == N and d % 16 == 0

    tv3s.SCAN = lambda b, dt, A, *more: (Scan.apply if fits(*A.shape) else scan)(b, dt, A, *more)
    tv3s.CONV = lambda a, tail, taps, bias: (Conv.apply if len(taps) == K else conv)(a, tail, taps, bias)
    return True


def check() -> float:
    """Largest difference of values and gradients from the plain versions, relative to each tensor's scale."""
    torch.manual_seed(0)
    w, l, d = 3, 37, 32

    def both(plain, fast, args, constant=()):
        results = []
        for f in (plain, fast):
            leaves = [t.clone().requires_grad_(i not in constant) for i, t in enumerate(args)]
            outs = f(*leaves)
            outs = outs if isinstance(outs, tuple) else (outs,)
            sum((o * torch.linspace(-1, 1, o.numel()).view(o.shape)).sum() for o in outs).backward()
            results.append([*(o.detach() for o in outs), *(t.grad for t in leaves if t.requires_grad)])
        return max(float((p - q).abs().max() / p.abs().max()) for p, q in zip(*results))

    shapes = [(w, l, d), (w, l, d), (d, N), (w, l, N), (w, l, N), (d,), (w, l, d), (w, d, N)]
    args = [torch.randn(s) for s in shapes]
    args[2] = -args[2].exp()
    conv = [torch.randn(s) for s in ((w, l, d), (w, K - 1, d), (K, d), (d,))]
    return max(both(tv3s.selective_scan, Scan.apply, args), both(tv3s.causal_conv, Conv.apply, conv, (1,)))


if __name__ == "__main__":
    assert install()
    worst = check()
    print(f"largest relative difference {worst:.1e}")
    raise SystemExit(worst > 1e-4)
