"""TV3S, the whole model in one file: what `engine/` computes, written to be read.

An encoder (MiT or Swin) makes four maps c1..c4 at strides 4, 8, 16, 32. The head fuses them into one map f of
E channels at c1's size, halves it to a grid whose sides are multiples of the window w, and runs L = 2N
state-space layers over it: each layer cuts the grid into windows (even layers aligned at 0, odd layers shifted
by s) and scans each window's tokens row by row with a selective state space. The state of every (layer, window)
is what time shares: in `stream` mode the first token of frame t + 1 follows the last token of frame t. A 1x1
classifier on the grid and three bilinear resizes give the mask.

    python3 reference/tv3s.py --selftest [--parity tests/parity]

Shapes: B batch, T frames, K classes, (h, w) the grid, W windows of one shape, L their tokens (over all frames),
D = 2E inner channels, n states per channel, k taps of the causal convolution, R the rank of the step size.
"""
from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Iterator

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLIP_OFFSETS = (9, 6, 3, 0)


# ---------------------------------------------------------------------------------------------- architecture
@dataclass
class Config:
    encoder: str = "mit"                     # mit | swin
    dims: tuple = (64, 128, 320, 512)        # channels of c1..c4
    depths: tuple = (2, 2, 2, 2)
    heads: tuple = ()                        # () = by the rule in __post_init__
    sr: tuple = (8, 4, 2, 1)                 # MiT: keys and values come from a map reduced by this
    mlp: int = 4
    eps: float = 1e-6                        # MiT block and stage norms; Hugging Face checkpoints: 1e-5
    head: str = "tv3s"                       # tv3s | segformer
    classes: int = 124
    embed: int = 256                         # E
    window: int = 20                         # w
    shift: int = 10                          # s
    blocks: int = 4                          # N, each of two layers
    state: int = 16                          # n
    conv: int = 4                            # k
    rank: int = 0                            # R, 0 = ceil(E / 16)
    output: str = "direct"                   # direct | add | concat
    conv_seg: bool = True                    # the unused classifier that published files carry

    def __post_init__(self):
        each = 32 if self.encoder == "swin" or self.dims[0] <= 32 else 64   # channels of one attention head
        self.heads = tuple(self.heads) or tuple(max(1, d // each) for d in self.dims)
        self.rank = self.rank or math.ceil(self.embed / 16)


def _mit(dims, depths, **more): return dict(encoder="mit", dims=dims, depths=depths, **more)
def _swin(c, depths): return dict(encoder="swin", dims=(c, 2 * c, 4 * c, 8 * c), depths=depths)


ARCHS = {
    "mit_b0": _mit((32, 64, 160, 256), (2, 2, 2, 2)), "mit_b1": _mit((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": _mit((64, 128, 320, 512), (3, 4, 6, 3)), "mit_b3": _mit((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": _mit((64, 128, 320, 512), (3, 8, 27, 3)), "mit_b5": _mit((64, 128, 320, 512), (3, 6, 40, 3)),
    "swin_t": _swin(96, (2, 2, 6, 2)), "swin_s": _swin(96, (2, 2, 18, 2)),
    "swin_b": _swin(128, (2, 2, 18, 2)), "swin_l": _swin(192, (2, 2, 18, 2)),
}


def config(arch: str = "mit_b1", **more) -> Config:
    return Config(**{**ARCHS.get(arch, {}), **more})


def resize(x: Tensor, size) -> Tensor:
    """Bilinear with half-pixel centres; (B, C, h, w) -> (B, C, *size)."""
    size = tuple(int(v) for v in size)
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


# ------------------------------------------------------------------------------------------------ MiT encoder
class Attention(nn.Module):
    def __init__(self, c: int, heads: int, sr: int):
        super().__init__()
        self.heads, self.sr_ratio = heads, sr
        self.q, self.kv, self.proj = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        if sr > 1:
            self.sr, self.norm = nn.Conv2d(c, c, sr, sr), nn.LayerNorm(c, eps=1e-5)

    def forward(self, x: Tensor, hw) -> Tensor:                            # (B, h*w, C)
        b, l, c = x.shape
        q = self.q(x).view(b, l, self.heads, -1).transpose(1, 2)           # (B, heads, l, C/heads)
        if self.sr_ratio > 1:
            small = self.sr(x.transpose(1, 2).reshape(b, c, *hw))          # remainder at right, bottom dropped
            x = self.norm(small.flatten(2).transpose(1, 2))                # (B, m, C)
        k, v = self.kv(x).view(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        p = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)     # (B, heads, l, m)
        return self.proj((p @ v).transpose(1, 2).reshape(b, l, c))


class DwConv(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 3, 1, 1, groups=c)

    def forward(self, x: Tensor, hw) -> Tensor:                            # (B, h*w, C), the same out
        b, l, c = x.shape
        return self.dwconv(x.transpose(1, 2).reshape(b, c, *hw)).flatten(2).transpose(1, 2)


class MixMlp(nn.Module):
    def __init__(self, c: int, hidden: int):
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(c, hidden), DwConv(hidden), nn.Linear(hidden, c)

    def forward(self, x: Tensor, hw) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), hw)))


class MitBlock(nn.Module):
    def __init__(self, c: int, heads: int, sr: int, mlp: int, eps: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(c, eps=eps), Attention(c, heads, sr)
        self.norm2, self.mlp = nn.LayerNorm(c, eps=eps), MixMlp(c, mlp * c)

    def forward(self, x: Tensor, hw) -> Tensor:
        x = x + self.attn(self.norm1(x), hw)
        return x + self.mlp(self.norm2(x), hw)


class PatchEmbed(nn.Module):
    def __init__(self, cin: int, c: int, kernel: int, stride: int, pad: int):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(cin, c, kernel, stride, pad), nn.LayerNorm(c, eps=1e-5)

    def forward(self, x: Tensor):                                          # (B, cin, H, W) -> (B, h*w, c), (h, w)
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[-2:]


class Mit(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        cin = 3
        for i, c in enumerate(g.dims, 1):
            setattr(self, f"patch_embed{i}", PatchEmbed(cin, c, *((7, 4, 3) if i == 1 else (3, 2, 1))))
            setattr(self, f"block{i}", nn.ModuleList(
                MitBlock(c, g.heads[i - 1], g.sr[i - 1], g.mlp, g.eps) for _ in range(g.depths[i - 1])))
            setattr(self, f"norm{i}", nn.LayerNorm(c, eps=g.eps))
            cin = c

    def forward(self, x: Tensor) -> list[Tensor]:                          # (B, 3, H, W) -> c1..c4
        out = []
        for i in range(1, 5):
            x, hw = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x, hw)
            x = getattr(self, f"norm{i}")(x).transpose(1, 2).reshape(len(x), -1, *hw)
            out.append(x)
        return out


# ----------------------------------------------------------------------------------------------- Swin encoder
SW = 7                                                                     # attention window


class SwinAttention(nn.Module):
    def __init__(self, c: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * SW - 1) ** 2, heads))
        y, x = [t.flatten() for t in torch.meshgrid(torch.arange(SW), torch.arange(SW), indexing="ij")]
        index = (y[:, None] - y + SW - 1) * (2 * SW - 1) + (x[:, None] - x + SW - 1)
        self.register_buffer("relative_position_index", index)             # (49, 49)

    def forward(self, x: Tensor, mask) -> Tensor:                          # (windows, 49, C), mask (nw, 49, 49)
        m, l, c = x.shape
        q, k, v = self.qkv(x).view(m, l, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        p = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)          # (windows, heads, 49, 49)
        p = p + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            p = (p.view(-1, len(mask), *p.shape[1:]) + mask[:, None]).view(p.shape)
        return self.proj((p.softmax(-1) @ v).transpose(1, 2).reshape(m, l, c))


class Mlp(nn.Module):
    def __init__(self, c: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, hidden), nn.Linear(hidden, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def to_windows(x: Tensor, wh: int, ww: int) -> Tensor:                     # (B, h, w, C) -> (B*nw, wh*ww, C)
    b, h, w, c = x.shape
    return x.view(b, h // wh, wh, w // ww, ww, c).transpose(2, 3).reshape(-1, wh * ww, c)


def from_windows(x: Tensor, wh: int, ww: int, h: int, w: int) -> Tensor:   # the inverse
    return x.view(-1, h // wh, w // ww, wh, ww, x.shape[-1]).transpose(2, 3).reshape(-1, h, w, x.shape[-1])


class SwinBlock(nn.Module):
    def __init__(self, c: int, heads: int, mlp: int, odd: int):
        super().__init__()
        self.roll = SW // 2 if odd else 0
        self.norm1, self.attn = nn.LayerNorm(c), SwinAttention(c, heads)
        self.norm2, self.mlp = nn.LayerNorm(c), Mlp(c, mlp * c)

    def forward(self, x: Tensor) -> Tensor:                                # (B, h, w, C)
        h, w = x.shape[1:3]
        y = F.pad(self.norm1(x), (0, 0, 0, -w % SW, 0, -h % SW))
        ph, pw = y.shape[1:3]
        mask = None
        if self.roll:
            y = y.roll((-self.roll, -self.roll), (1, 2))
            band = [(torch.arange(n) >= n - SW).int() + (torch.arange(n) >= n - self.roll) for n in (ph, pw)]
            region = to_windows((3 * band[0][:, None] + band[1])[None, ..., None], SW, SW)[..., 0]   # (nw, 49)
            mask = (region[:, :, None] != region[:, None]).to(x.dtype) * -100.0
        y = from_windows(self.attn(to_windows(y, SW, SW), mask), SW, SW, ph, pw)
        if self.roll:
            y = y.roll((self.roll, self.roll), (1, 2))
        x = x + y[:, :h, :w]
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * c, 2 * c, bias=False), nn.LayerNorm(4 * c)

    def forward(self, x: Tensor) -> Tensor:                                # (B, h, w, C) -> (B, ~h/2, ~w/2, 2C)
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    def __init__(self, c: int, depth: int, heads: int, mlp: int, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(c, heads, mlp, j % 2) for j in range(depth))
        if not last:
            self.downsample = PatchMerging(c)


class Swin(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        self.patch_embed = PatchEmbed(3, g.dims[0], 4, 4, 0)
        self.layers = nn.ModuleList(
            SwinStage(g.dims[i], g.depths[i], g.heads[i], g.mlp, i == 3) for i in range(4))
        for i in range(4):
            setattr(self, f"norm{i}", nn.LayerNorm(g.dims[i]))

    def forward(self, x: Tensor) -> list[Tensor]:                          # (B, 3, H, W) -> c1..c4
        x, hw = self.patch_embed(F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)))
        x, out = x.view(len(x), *hw, -1), []
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
            out.append(getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2))
            if i < 3:
                x = stage.downsample(x)
        return out


# -------------------------------------------------------------------------------------- the state-space layers
def selective_scan(b: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, S: Tensor):
    """b, dt, z (W, L, D); A (D, n); B, C (W, L, n); D (D); S (W, D, n) -> y (W, L, D), S after the last token.

    S_t = exp(softplus(dt_t) A) . S_{t-1} + (softplus(dt_t) b_t) B_t^T;  y_t = (S_t C_t + D b_t) SiLU(z_t).
    Everything but the recurrence itself is done for a run of tokens at once; runs are kept small enough for
    the second-level cache (of a GPU: for its memory).
    """
    dt = F.softplus(dt)
    run = max(1, min(b.shape[1], (1 << (30 if b.is_cuda else 18)) // S.numel()))
    db, out = dt * b, []
    for t in range(0, b.shape[1], run):
        e = slice(t, t + run)
        decay = torch.exp(dt[:, e, :, None] * A)                           # (W, run, D, n)
        states = db[:, e, :, None] * B[:, e, None]                         # becomes S_t
        if torch.is_grad_enabled():
            steps = []
            for j in range(states.shape[1]):
                S = torch.addcmul(states[:, j], decay[:, j], S)
                steps.append(S)
            states = torch.stack(steps, 1)
        else:
            for j in range(states.shape[1]):
                S = states[:, j].addcmul_(decay[:, j], S)
        out.append((states @ C[:, e, :, None])[..., 0])                    # (W, run, D)
    return (torch.cat(out, 1) + D * b) * F.silu(z), S.clone()


def causal_conv(a: Tensor, tail: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """a (W, L, D), tail (W, k - 1, D) before it, taps (k, D), bias (D) -> SiLU of the convolution (W, L, D)."""
    padded = torch.cat([tail, a], 1)
    return F.silu(bias + sum(padded[:, j:j + a.shape[1]] * tap for j, tap in enumerate(taps)))


SCAN, CONV = selective_scan, causal_conv                                   # train.py puts its own C versions here


class Mixer(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        d = 2 * g.embed
        self.n, self.k, self.r = g.state, g.conv, g.rank
        self.in_proj = nn.Linear(g.embed, 2 * d, bias=False)
        self.conv1d = nn.Conv1d(d, d, g.conv, groups=d)
        self.x_proj = nn.Linear(d, g.rank + 2 * g.state, bias=False)
        self.dt_proj = nn.Linear(g.rank, d)
        self.A_log = nn.Parameter(torch.arange(1.0, g.state + 1).log().repeat(d, 1))     # (D, n)
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, g.embed, bias=False)
        step = torch.exp(torch.rand(d) * math.log(100) + math.log(1e-3))   # initial steps 0.001 .. 0.1
        self.dt_proj.bias.data = step + torch.log(-torch.expm1(-step))     # softplus(bias) = step
        nn.init.uniform_(self.dt_proj.weight, -g.rank ** -0.5, g.rank ** -0.5)

    def zero(self, w: int) -> tuple[Tensor, Tensor]:
        d = len(self.D)
        return self.D.new_zeros(w, d, self.n), self.D.new_zeros(w, self.k - 1, d)

    def forward(self, x: Tensor, groups, state):
        """x (M, E): the tokens of all windows, one window after another; groups [(W, L)] of windows of one length,
        state [(S (W, D, n), tail (W, k - 1, D): the last values of a)] of each group or None -> u, state after."""
        d, rows = len(self.D), [w * l for w, l in groups]
        state = state or [self.zero(w) for w, _ in groups]
        a, z = (F.linear(x, half) for half in self.in_proj.weight.split(d))                     # (M, D) each
        parts = [part.view(w, l, d) for part, (w, l) in zip(a.split(rows), groups)]
        taps = self.conv1d.weight[:, 0].t()                                # (k, D)
        b = [CONV(part, tail, taps, self.conv1d.bias) for part, (_, tail) in zip(parts, state)]
        step, B, C = self.x_proj(torch.cat([v.flatten(0, 1) for v in b])).split((self.r, self.n, self.n), -1)
        step, A, y, after = self.dt_proj(step), -torch.exp(self.A_log), [], []
        split = zip(*(t.split(rows) for t in (step, B, C, z)))             # by group again
        for (w, l), (S, tail), part, b_g, four in zip(groups, state, parts, b, split):
            dt, B_g, C_g, z_g = (t.view(w, l, -1) for t in four)
            y_g, S = SCAN(b_g, dt, A, B_g, C_g, self.D, z_g, S)
            y.append(y_g.flatten(0, 1))
            after.append((S, torch.cat([tail, part[:, 1 - self.k:]], 1)[:, 1 - self.k:].detach()))
        return self.out_proj(torch.cat(y)), after


class RMSNorm(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        self.norm, self.mixer = RMSNorm(g.embed), Mixer(g)


def cuts(size: int, w: int, s: int) -> list[tuple[int, int, int]]:
    """One axis of the grid as runs of equal pieces: (start, length of a piece, pieces); s = 0: not shifted."""
    runs = [(0, s, 1), (s, w, size // w - 1), (size - w + s, w - s, 1)] if s else [(0, w, size // w)]
    return [r for r in runs if r[1] and r[2]]


@functools.lru_cache(64)
def window_order(shape: tuple, w: int, s: int):
    """The tokens (B, T, h, w) sorted by window, frames of a window one after another, windows of one shape
    together: (permutation, its inverse, [(windows, tokens of each)])."""
    b, t, height, width = shape
    index = torch.arange(b * t * height * width).view(shape)
    places: dict[tuple, list] = {}                                         # window shape -> tokens
    for y0, wh, ny in cuts(height, w, s):
        for x0, ww, nx in cuts(width, w, s):
            rect = index[:, :, y0:y0 + ny * wh, x0:x0 + nx * ww].reshape(b, t, ny, wh, nx, ww)
            places.setdefault((wh, ww), []).append(rect.permute(0, 2, 4, 1, 3, 5).reshape(-1, t * wh * ww))
    groups = [torch.cat(v) for v in places.values()]
    order = torch.cat([g.flatten() for g in groups])
    return order, order.argsort(), [tuple(g.shape) for g in groups]


class Permute(torch.autograd.Function):
    """x[order] of rows; its gradient is a gather too."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, g: Tensor):
        return g.index_select(0, ctx.inverse), None, None


class StateSpace(nn.Module):
    """L layers over a grid. state: for each layer what its mixer returned, or None for zero."""

    def __init__(self, g: Config):
        super().__init__()
        self.w, self.s = g.window, g.shift
        self.layers, self.norm_f = nn.ModuleList(Layer(g) for _ in range(2 * g.blocks)), RMSNorm(g.embed)

    def forward(self, x: Tensor, state=None, taps=None):                   # (B, T, h, w, E)
        shape, u, r, after = x.shape, x.reshape(-1, x.shape[-1]), None, []
        for i, layer in enumerate(self.layers):
            r = u if r is None else r + u                                  # (B*T*h*w, E)
            order, inverse, groups = window_order(tuple(shape[:4]), self.w, self.s if i % 2 else 0)
            v, s = layer.mixer(Permute.apply(layer.norm(r), order, inverse), groups, state and state[i])
            u = Permute.apply(v, inverse, order)
            after.append(s)
            if taps is not None:
                taps[f"layer{i}_u"], taps[f"layer{i}_r"] = u.view(shape), r.view(shape)
        return self.norm_f(r + u).view(shape), after


# ---------------------------------------------------------------------------------------------------- the head
class Projection(nn.Module):
    def __init__(self, c: int, e: int):
        super().__init__()
        self.proj = nn.Linear(c, e)


class Fuse(nn.Module):
    def __init__(self, e: int):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4 * e, e, 1, bias=False), nn.BatchNorm2d(e)


class Head(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        self.g = g
        for i in range(1, 5):
            setattr(self, f"linear_c{i}", Projection(g.dims[i - 1], g.embed))
        self.linear_fuse, self.linear_pred = Fuse(g.embed), nn.Conv2d(g.embed, g.classes, 1)
        if g.conv_seg:
            self.conv_seg = nn.Conv2d(128, g.classes, 1)
        if g.head == "tv3s":
            self.vs = StateSpace(g)
            self.linear_pred2 = nn.Conv2d(g.embed * (2 if g.output == "concat" else 1), g.classes, 1)

    def fuse(self, maps: list[Tensor]) -> Tensor:
        """c1..c4 -> f (B, E, h1, w1). The 1x1 convolution over [e4 e3 e2 e1] is the sum of its four quarters,
        and a quarter commutes with the resize, so it is applied at c_i's own size."""
        total = 0
        for quarter, i in zip(self.linear_fuse.conv.weight.chunk(4, 1), (4, 3, 2, 1)):
            proj = getattr(self, f"linear_c{i}").proj
            e = F.conv2d(F.conv2d(maps[i - 1], proj.weight[:, :, None, None], proj.bias), quarter)
            total = total + resize(e, maps[0].shape[-2:])
        return F.relu(self.linear_fuse.bn(total))

    def grid_size(self, h1: int, w1: int) -> tuple[int, int]:
        return tuple(math.ceil((v // 2) / self.g.window) * self.g.window for v in (h1, w1))

    def temporal(self, f: Tensor, t: int, state=None, taps=None):
        """f (B*T, E, h1, w1) -> grid logits (B*T, K, h, w), state after the last frame."""
        x = resize(f, self.grid_size(*f.shape[-2:])).permute(0, 2, 3, 1)   # (B*T, h, w, E)
        out, state = self.vs(x.reshape(-1, t, *x.shape[1:]), state, taps)
        out = out.flatten(0, 1)
        if taps is not None:
            taps["norm_f"] = out
        if self.g.output == "add":
            out = x + out
        elif self.g.output == "concat":
            out = torch.cat([x, out], -1)
        return self.linear_pred2(out.permute(0, 3, 1, 2)), state


class TV3S(nn.Module):
    def __init__(self, g: Config):
        super().__init__()
        self.g = g
        self.backbone = (Swin if g.encoder == "swin" else Mit)(g)
        self.decode_head = Head(g)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def features(self, rgb: Tensor, taps=None) -> Tensor:                  # (B, 3, H, W) 0..255 -> f
        maps = self.backbone((rgb.float() - self.mean) / self.std)
        f = self.decode_head.fuse(maps)
        if taps is not None:
            taps.update({f"c{i + 1}": c for i, c in enumerate(maps)}, f=f)
        return f

    def forward(self, rgb: Tensor, state=None, taps=None):
        """rgb (B, T, 3, H, W), B clips of T frames that follow each other -> logits (B, T, K, h, w), state."""
        b, t = rgb.shape[:2]
        f = self.features(rgb.flatten(0, 1), taps)
        if self.g.head == "tv3s":
            logits, state = self.decode_head.temporal(f, t, state, taps)
        else:
            logits = self.decode_head.linear_pred(f)
        return logits.unflatten(0, (b, t)), state


def upsample(logits: Tensor, net_hw, out_hw=None) -> Tensor:
    """Grid logits (B, K, h, w) -> c1's size -> network input size -> original size."""
    c1 = [math.ceil(v / 4) for v in net_hw]                                # of both encoders
    x = resize(resize(logits, c1), net_hw)
    return resize(x, out_hw) if out_hw is not None else x


@torch.no_grad()
def run(model: TV3S, frames: np.ndarray, mode: str = "stream", net_hw=None,
        offsets=CLIP_OFFSETS, packed: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """frames (N, H, W, 3) uint8 -> per output (grid logits (K, h, w) float32, mask (H, W) uint8).

    mode clip: the clip of frame t is t - offsets (frames before the first are the first); with packed, each run
    of len(offsets) frames is one clip already and yields one output. net_hw: the network input size.
    """
    state, hw = None, frames.shape[1:3]
    net_hw = net_hw or hw
    clips = [[t] for t in range(len(frames))]
    if mode == "clip":
        m = len(offsets)
        clips = ([list(range(t, t + m)) for t in range(0, len(frames) - m + 1, m)] if packed else
                 [[max(0, t - o) for o in offsets] for t in range(len(frames))])
    for clip in clips:
        x = torch.from_numpy(np.ascontiguousarray(frames[clip])).permute(0, 3, 1, 2).float()
        logits, after = model(resize(x, net_hw)[None], state if mode == "stream" else None)
        state, last = after, logits[:, -1]
        mask = upsample(last, net_hw, hw).argmax(1)[0]
        yield last[0].numpy(), mask.numpy().astype(np.uint8)


# ------------------------------------------------------------------------------------------------- checkpoints
def config_of(weights: dict, **more) -> Config:
    """The architecture follows from the shapes, but for window, shift and output add (give them in more)."""
    s = {k: tuple(v.shape) for k, v in weights.items()}
    g: dict = {}
    if "backbone.patch_embed.proj.weight" in s:
        g["encoder"] = "swin"
        g["dims"] = tuple(s[f"backbone.norm{i}.weight"][0] for i in range(4))
        g["depths"] = tuple(len({k.split(".")[4] for k in s if k.startswith(f"backbone.layers.{i}.blocks.")})
                            for i in range(4))
    else:
        g["dims"] = tuple(s[f"backbone.norm{i}.weight"][0] for i in range(1, 5))
        g["depths"] = tuple(len({k.split(".")[2] for k in s if k.startswith(f"backbone.block{i}.")})
                            for i in range(1, 5))
        g["sr"] = tuple(s.get(f"backbone.block{i}.0.attn.sr.weight", (0, 0, 1))[2] for i in range(1, 5))
        g["mlp"] = s["backbone.block1.0.mlp.fc1.weight"][0] // g["dims"][0]
    g["classes"], g["embed"] = s["decode_head.linear_pred.weight"][:2]
    g["conv_seg"] = "decode_head.conv_seg.weight" in s
    if "decode_head.vs.norm_f.weight" in s:
        g["state"] = s["decode_head.vs.layers.0.mixer.A_log"][1]
        g["conv"] = s["decode_head.vs.layers.0.mixer.conv1d.weight"][2]
        g["rank"] = s["decode_head.vs.layers.0.mixer.dt_proj.weight"][1]
        g["blocks"] = len({k.split(".")[3] for k in s if k.startswith("decode_head.vs.layers.")}) // 2
        if s["decode_head.linear_pred2.weight"][1] == 2 * g["embed"]:
            g["output"] = "concat"
    else:
        g["head"] = "segformer"
    return Config(**{**g, **more})


def build(weights: dict, **more) -> TV3S:
    """A model in evaluation mode from {name: array or tensor}."""
    tensors = {k: torch.as_tensor(v).float() if "index" not in k else torch.as_tensor(v) for k, v in weights.items()}
    model = TV3S(config_of(tensors, **more)).eval()
    wrong = model.load_state_dict(tensors, strict=False)
    missing = [k for k in wrong.missing_keys if "relative_position_index" not in k and "num_batches" not in k]
    assert not missing and not wrong.unexpected_keys, (missing, wrong.unexpected_keys)
    return model


def load(path: str, **more) -> TV3S:
    return build(torch.load(path, map_location="cpu")["state_dict"], **more)


# ---------------------------------------------------------------------------------------------------- self-test
def selftest(folder: str) -> list[str]:
    """Compares with the published model's own outputs; returns the failures."""
    spec = importlib.util.spec_from_file_location("cases", os.path.join(folder, "cases.py"))
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    failures = []
    for name, case in cases.CASES.items():
        model = build(cases.weights(cases.shapes(name), case["seed"]))
        frames, gold = cases.frames(case["hw"], case["T"], case["seed"]), cases.golden(name)
        out = list(run(model, frames, "clip" if "clip" in name else "stream", packed=True))
        logits, masks = np.stack([o[0] for o in out]), np.stack([o[1] for o in out])
        diff = np.abs(logits - gold["logits"]).max() / gold["logits"].std()
        same = (masks == gold["masks"]).mean()
        print(f"{name:16s} max|dlogit|/std {diff:.2e}  equal masks {100 * same:.4f} %")
        if diff > 1e-3 or same < 0.9995:
            failures.append(name)
    return failures


if __name__ == "__main__":
    args = argparse.ArgumentParser(description="TV3S in PyTorch")
    args.add_argument("--selftest", action="store_true", required=True)
    here = os.path.dirname(os.path.abspath(__file__))
    args.add_argument("--parity", default=os.environ.get("TV3S_PARITY", os.path.join(here, "../tests/parity")))
    raise SystemExit(1 if selftest(args.parse_args().parity) else 0)
