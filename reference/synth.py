"""Synthetic street video with labels, from a seed: numpy only, a few hundred frames/s on one core.

A scene is a wide static background (sky, buildings, vegetation, sidewalk, road, poles), a camera that pans and
shakes, and objects that cross it and hide each other. Time carries information by construction:
- the details that tell similar classes apart (a bus from a tram from a truck, a car from a taxi ...) show only
  in some frames of an object, at random, so one frame gives its shape and several give its class;
- light flickers: runs of 1 to 3 frames nearly dark or washed out, glare, streaks; and every frame has its own
  colour cast, gain, blotches and strong noise.
So a model that looks at single frames must lose to one that remembers.

    python3 reference/synth.py --seed 7 --frames 64 -o OUT     OUT/frames/00007/*.png, OUT/labels/00007/*.png
    python3 reference/synth.py --seed 7 --frames 150 --mp4 street.mp4
"""
from __future__ import annotations

import argparse
import os
import struct
import subprocess
import zlib
from typing import Sequence

import numpy as np

H, W = 160, 256
CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "pole", "car", "taxi", "bus", "truck", "tram",
           "pedestrian", "cyclist", "motorcyclist", "dog")
PALETTE = [[128, 64, 128], [244, 35, 232], [70, 70, 70], [107, 142, 35], [70, 130, 180], [153, 153, 153],
           [0, 0, 142], [250, 170, 30], [0, 60, 100], [0, 140, 140], [0, 80, 220],
           [220, 20, 60], [255, 0, 0], [119, 11, 190], [152, 251, 152]]
ID = {name: i for i, name in enumerate(CLASSES)}
DETAIL = 0.72                                  # chance that an object's details show in a frame
FLICKER = 0.035                                # chance that a run of bad frames starts at a frame


# ---------------------------------------------------------------------------------------------------- sprites
class Canvas:
    """One drawing of one object: colour (h, w, 3) float and coverage (h, w) bool, y down, unit coordinates."""

    def __init__(self, h: int, w: int):
        self.rgb = np.zeros((h, w, 3), np.float32)
        self.on = np.zeros((h, w), bool)
        self.y, self.x = np.mgrid[0:h, 0:w].astype(np.float32)
        self.y, self.x = (self.y + 0.5) / h, (self.x + 0.5) / w

    def put(self, where: np.ndarray, colour) -> None:
        self.rgb[where] = colour
        self.on |= where

    def box(self, x0, y0, x1, y1, colour) -> None:
        self.put((self.x >= x0) & (self.x < x1) & (self.y >= y0) & (self.y < y1), colour)

    def oval(self, cx, cy, rx, ry, colour) -> None:
        self.put(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 < 1, colour)

    def line(self, x0, y0, x1, y1, thick, colour) -> None:                 # thickness in units of height
        ratio = self.on.shape[1] / self.on.shape[0]
        dx, dy = (x1 - x0) * ratio, y1 - y0
        px, py = (self.x - x0) * ratio, self.y - y0
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        self.put((px - t * dx) ** 2 + (py - t * dy) ** 2 < thick * thick / 4, colour)


DARK, TYRE, GLASS, SKIN = (30, 30, 34), (22, 22, 24), (150, 180, 200), (205, 160, 130)


def draw_car(c: Canvas, paint, phase: int, detail: bool, taxi: bool) -> None:
    c.box(0.02, 0.42, 0.98, 0.84, paint)
    c.put((c.y > 0.10) & (c.y < 0.45) & (np.abs(c.x - 0.47) < 0.14 + 0.42 * (c.y - 0.05)), paint)
    c.put((c.y > 0.17) & (c.y < 0.42) & (np.abs(c.x - 0.47) < 0.10 + 0.40 * (c.y - 0.05)), GLASS)
    c.box(0.45, 0.12, 0.49, 0.45, paint)
    if taxi and detail:                                                    # roof sign and a chequered belt
        c.box(0.38, 0.0, 0.58, 0.11, (255, 225, 60))
        c.box(0.04, 0.50, 0.96, 0.68, (250, 240, 230))
        c.put(c.on & (c.y > 0.50) & (c.y < 0.68) & ((c.x * 10).astype(int) % 2 == 0), DARK)
    elif detail:                                                           # lamps, handle and a low dark sill
        c.box(0.90, 0.48, 0.98, 0.58, (255, 250, 200))
        c.box(0.02, 0.48, 0.09, 0.58, (230, 40, 40))
        c.box(0.04, 0.72, 0.96, 0.84, DARK)
    for x in (0.21, 0.78):
        c.oval(x, 0.84, 0.10, 0.17, TYRE)


def draw_big(c: Canvas, paint, phase: int, detail: bool, kind: str) -> None:
    """Bus, truck and tram: one silhouette, told apart by details alone."""
    c.box(0.01, 0.06, 0.99, 0.90, paint)
    c.box(0.88, 0.16, 0.97, 0.50, GLASS)
    for x in (0.18, 0.80):
        c.oval(x, 0.90, 0.06, 0.10, TYRE)
    if not detail:
        c.box(0.03, 0.20, 0.86, 0.30, np.multiply(paint, 0.85))
    elif kind == "bus":                                                    # a row of square windows
        c.put((c.y > 0.18) & (c.y < 0.48) & (c.x > 0.04) & (c.x < 0.86) & ((c.x * 14) % 2 < 1.5), GLASS)
    elif kind == "truck":                                                  # cab, gap and a corrugated box
        c.box(0.01, 0.06, 0.72, 0.80, (200, 195, 185))
        c.put((c.y > 0.06) & (c.y < 0.80) & (c.x < 0.72) & ((c.x * 24) % 2 < 0.8) & c.on, (120, 115, 110))
        c.box(0.72, 0.06, 0.76, 0.80, DARK)
    else:                                                                  # tram: broad stripes, skirt over wheels
        c.box(0.01, 0.10, 0.99, 0.28, (235, 235, 225))
        c.box(0.01, 0.50, 0.99, 0.66, (235, 235, 225))
        c.box(0.01, 0.80, 0.99, 0.98, DARK)


def draw_person(c: Canvas, paint, phase: int, detail: bool) -> None:
    s = (0.22, 0.10, -0.05, 0.10)[phase]
    c.line(0.5, 0.55, 0.5 - s, 0.98, 0.15, (50, 55, 90))
    c.line(0.5, 0.55, 0.5 + s, 0.98, 0.15, (40, 45, 75))
    c.oval(0.5, 0.40, 0.34, 0.24, paint)
    c.oval(0.5, 0.10, 0.22, 0.10, SKIN)


def draw_rider(c: Canvas, paint, phase: int, detail: bool, motor: bool) -> None:
    for x in (0.20, 0.80):
        c.oval(x, 0.80, 0.20, 0.20, TYRE)
    if detail and not motor:                                               # thin wheels: you see through them
        for x in (0.20, 0.80):
            c.oval(x, 0.80, 0.14, 0.14, (185, 185, 190))
    if detail and motor:                                                   # tank, exhaust, helmet
        c.oval(0.52, 0.66, 0.34, 0.13, (200, 30, 40))
        c.line(0.1, 0.86, 0.5, 0.84, 0.07, (220, 220, 225))
    else:
        c.oval(0.52, 0.68, 0.28, 0.08, (70, 70, 75))
    c.line(0.48, 0.62, 0.56, 0.22, 0.22, paint)
    c.line(0.50, 0.60, 0.62, 0.80, 0.10, (50, 55, 90))
    c.line(0.56, 0.30, 0.78, 0.50, 0.08, paint)
    c.oval(0.58, 0.11, 0.12, 0.11, (235, 235, 240) if detail and motor else SKIN)


def draw_dog(c: Canvas, paint, phase: int, detail: bool) -> None:
    s = (0.06, 0.0, -0.06, 0.0)[phase]
    for x, d in ((0.22, s), (0.32, -s), (0.62, s), (0.72, -s)):
        c.line(x, 0.55, x + d, 0.97, 0.18, np.multiply(paint, 0.8))
    c.oval(0.47, 0.48, 0.34, 0.24, paint)
    c.oval(0.84, 0.26, 0.15, 0.20, paint)
    c.line(0.17, 0.42, 0.06, 0.14, 0.17, paint)


# class: height and width range at the nearest depth (pixels), draw, speed range (pixels a frame), where (0 road, 1 sidewalk)
THINGS = {
    "car": (40, 44, 78, 90, lambda c, p, f, d: draw_car(c, p, f, d, False), 1.0, 4.5, 0),
    "taxi": (40, 44, 78, 90, lambda c, p, f, d: draw_car(c, p, f, d, True), 1.0, 4.5, 0),
    "bus": (58, 66, 125, 150, lambda c, p, f, d: draw_big(c, p, f, d, "bus"), 1.0, 3.5, 0),
    "truck": (58, 66, 125, 150, lambda c, p, f, d: draw_big(c, p, f, d, "truck"), 1.0, 3.5, 0),
    "tram": (58, 66, 125, 150, lambda c, p, f, d: draw_big(c, p, f, d, "tram"), 1.0, 3.5, 0),
    "pedestrian": (64, 72, 30, 34, draw_person, 0.2, 1.2, 1),
    "cyclist": (58, 66, 52, 58, lambda c, p, f, d: draw_rider(c, p, f, d, False), 0.8, 2.6, 0),
    "motorcyclist": (58, 66, 52, 58, lambda c, p, f, d: draw_rider(c, p, f, d, True), 1.2, 4.0, 0),
    "dog": (40, 44, 58, 64, draw_dog, 0.2, 1.4, 1),
}
PAINTS = [(190, 40, 40), (40, 70, 170), (210, 210, 205), (60, 60, 66), (40, 120, 80), (200, 160, 40), (120, 150, 190), (150, 90, 60)]


class Thing:
    """One object: its phases of walking x {details hidden, shown}, drawn once; its place is a function of time."""

    def __init__(self, rng: np.random.Generator, name: str, span: int):
        h0, h1, w0, w1, draw, v0, v1, where = THINGS[name]
        depth = rng.uniform(0, 1)                                          # 1: close to the camera
        near = 0.84 + 0.16 * depth
        h, w = int(rng.uniform(h0, h1) * near), int(rng.uniform(w0, w1) * near)
        paint = np.clip(np.array(PAINTS[rng.integers(len(PAINTS))]) + rng.normal(0, 12, 3), 20, 240)
        if name == "dog":
            paint = np.array([(150, 105, 60), (90, 70, 50), (200, 180, 150)][rng.integers(3)])
        self.label, self.h, self.w = ID[name], h, w
        self.dir = 1 if rng.random() < 0.5 else -1
        self.sprites = []
        for phase in range(4 if where else 1):
            pair = []
            for detail in (False, True):
                c = Canvas(h, w)
                draw(c, paint, phase, detail)
                if self.dir < 0:
                    c.rgb, c.on = c.rgb[:, ::-1], c.on[:, ::-1]
                pair.append((np.ascontiguousarray(c.rgb), np.ascontiguousarray(c.on)))
            self.sprites.append(pair)
        self.v = self.dir * rng.uniform(v0, v1)
        self.x0 = rng.uniform(-40, span + 40)
        self.wrap = span + 260                                             # leaves, and comes back later
        road, walk = 104, 92                                               # y of their far edges
        self.foot = int(road + 8 + 46 * depth if where == 0 else walk + 13 + 6 * depth)
        if where == 1 and rng.random() < 0.7:                             # crosses the road in front
            self.foot = int(rng.uniform(125, 156))
        self.bob = rng.uniform(0, 6.28)
        self.key = int(rng.integers(1 << 30))

    def at(self, t: int) -> tuple[int, int]:                               # top left, in the panorama
        x = (self.x0 + self.v * t + 160) % self.wrap - 160
        return int(x), int(self.foot - self.h + np.sin(self.bob + 0.5 * t))


# ------------------------------------------------------------------------------------------------- background
def smooth(rng, h: int, w: int, cell: int) -> np.ndarray:
    """Random blotches in -1..1, bilinear from a coarse grid: (h, w) float32."""
    g = rng.uniform(-1, 1, (h // cell + 2, w // cell + 2)).astype(np.float32)
    y, x = np.arange(h, dtype=np.float32) / cell, np.arange(w, dtype=np.float32) / cell
    iy, ix = y.astype(int), x.astype(int)
    fy, fx = (y - iy)[:, None], x - ix
    rows = g[iy] * (1 - fy) + g[iy + 1] * fy
    return rows[:, ix] * (1 - fx) + rows[:, ix + 1] * fx


def panorama(rng: np.random.Generator, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, width, 3) float32 colour and (H, width) uint8 label of everything that stands still."""
    rgb, lab = np.zeros((H, width, 3), np.float32), np.zeros((H, width), np.uint8)
    y, x = np.mgrid[0:H, 0:width].astype(np.float32)

    def put(where, colour, name):
        rgb[where], lab[where] = colour, ID[name]

    overcast = rng.uniform(0, 1)
    sky = np.array([120, 165, 225]) * (1 - overcast) + np.array([190, 192, 198]) * overcast
    rgb[:], lab[:] = sky, ID["sky"]
    rgb += (smooth(rng, H, width, 24) * 18 - (y - 60) * 0.25)[..., None]
    x0 = -int(rng.integers(0, 60))
    while x0 < width:                                                      # a row of houses and of trees
        w = int(rng.integers(50, 120))
        if rng.random() < 0.62:
            top, col = rng.integers(8, 46), np.array([(165, 120, 100), (190, 180, 160), (140, 140, 145), (175, 150, 110)][rng.integers(4)]) + rng.normal(0, 10, 3)
            cut = np.s_[top:96, max(x0, 0):max(x0 + w, 0)]
            rgb[cut], lab[cut] = col, ID["building"]
            cw, ch = rng.integers(10, 17), rng.integers(12, 18)
            xs, ys = x[cut] - x0, y[cut] - top
            u, v = xs % cw, ys % ch
            win = (xs >= 2) & (xs < w - 3) & (ys >= 4) & (ys < 88 - top) & (u > 3) & (u < cw - 3) & (v > 4) & (v < ch - 3)
            rgb[cut][win] = (70, 80, 95) if rng.random() < 0.7 else (200, 195, 160)
        else:
            for _ in range(int(w // 22) + 1):
                cx, r = x0 + rng.uniform(0, w), rng.uniform(20, 34)
                xa, xb = np.clip((int(cx - 1.3 * r), int(cx + 1.3 * r)), 0, width)
                if xa < xb:
                    cut = np.s_[:96, xa:xb]
                    bumps = 1 + 0.3 * smooth(rng, 96, xb - xa, 6)
                    crown = ((x[cut] - cx) / r) ** 2 + ((y[cut] - rng.uniform(50, 62)) / (r * 1.15)) ** 2 < bumps
                    rgb[cut][crown] = np.array([70, 110, 50]) + rng.normal(0, 12, 3)
                    lab[cut][crown] = ID["vegetation"]
            hedge = np.s_[74:96, max(x0, 0):max(x0 + w, 0)]
            rgb[hedge], lab[hedge] = (80, 105, 55), ID["vegetation"]
            x0 -= int(rng.integers(0, 20))
        x0 += w + (int(rng.integers(10, 50)) if rng.random() < 0.4 else 0)
    put((y >= 86 + 3 * smooth(rng, H, width, 64)) & (lab == ID["sky"]), np.array([85, 105, 60]), "vegetation")
    green = lab == ID["vegetation"]
    rgb[green] += (rng.normal(0, 16, (H, width)).astype(np.float32) + 26 * smooth(rng, H, width, 5))[green][:, None]
    curb = rng.integers(108, 118)
    put((y >= 96) & (y < curb), np.array([165, 160, 152]) + rng.normal(0, 8, 3), "sidewalk")
    tiles = (lab == ID["sidewalk"]) & (((x + y * 0.6) % 14 < 1.5) | (y == 102))
    rgb[tiles] *= 0.78
    put(y >= curb, np.array([92, 92, 96]) + rng.normal(0, 6, 3), "road")
    rgb[(y >= curb) & (y < curb + 2)] = (200, 198, 190)
    rgb[(np.abs(y - 138) < 1.5) & (x % 48 < 26)] = (225, 222, 210)
    rgb += (7 * smooth(rng, H, width, 10) + 5 * smooth(rng, H, width, 3))[..., None]
    return rgb, lab


NOISE = np.random.Generator(np.random.PCG64(12345)).standard_normal(1 << 20, dtype=np.float32)


class Scene:
    """A video. frame(t) may be asked for in any order; the same (seed, t) always gives the same pixels."""

    def __init__(self, seed: int, hard: float = 1.0):
        self.seed, self.hard = seed, hard
        rng = np.random.Generator(np.random.PCG64(seed))
        self.pan, self.sway = rng.uniform(-1.0, 1.0), rng.uniform(0, 24, 2)
        self.freq, self.phase = rng.uniform(0.02, 0.08, 2), rng.uniform(0, 6.28, 2)
        self.span = W + 460
        self.rgb, self.lab = panorama(rng, self.span)
        names = list(THINGS) + ["pedestrian", "pedestrian", "dog", "car", "cyclist", "motorcyclist"]
        self.things = [Thing(rng, name, self.span) for name in names]
        self.things.sort(key=lambda o: o.foot)
        self.poles = [(int(p), int(rng.integers(10, 15)), rng.uniform(1.0, 1.25)) for p in
                      np.arange(rng.uniform(20, 120), self.span * 1.3, rng.uniform(140, 220))]
        grey = rng.uniform(60, 150)
        self.pole_rgb = np.array([grey, grey, grey * 1.05], np.float32)

    def bad(self, t: int) -> tuple[int, np.random.Generator]:
        """Kind of the flicker at frame t: 0 none, 1 dark, 2 washed out, 3 glare, 4 streaks."""
        for start in range(t, t - 3, -1):
            r = np.random.Generator(np.random.PCG64([self.seed, 77, start + 1000]))
            if r.random() < FLICKER * self.hard and start + int(r.integers(1, 4)) > t:
                return int(r.choice(4, p=(0.4, 0.25, 0.2, 0.15))) + 1, r
        return 0, r

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB and (H, W) uint8 label of frame t."""
        rng = np.random.Generator(np.random.PCG64([self.seed, 1, t + 1000]))
        cam = 230 + self.pan * (t % 400 if (t // 400) % 2 == 0 else 400 - t % 400) * 0.5 \
            + self.sway[0] * np.sin(self.freq[0] * t + self.phase[0]) + self.sway[1] * np.sin(self.freq[1] * t + self.phase[1])
        cam = int(np.clip(cam, 0, self.span - W))
        dy = int(rng.integers(-1, 2))
        rgb, lab = self.rgb[:, cam:cam + W].copy(), self.lab[:, cam:cam + W].copy()
        for o in self.things:
            x, y = o.at(t)
            x -= cam
            if x <= -o.w or x >= W:
                continue
            shown = np.random.Generator(np.random.PCG64([o.key, t + 1000])).random() < DETAIL
            sprite, on = o.sprites[(t // 3) % len(o.sprites)][int(shown)]
            xa, xb, ya, yb = max(x, 0), min(x + o.w, W), max(y, 0), min(y + o.h, H)
            part, where = sprite[ya - y:yb - y, xa - x:xb - x], on[ya - y:yb - y, xa - x:xb - x]
            np.copyto(rgb[ya:yb, xa:xb], part, where=where[..., None])
            np.copyto(lab[ya:yb, xa:xb], np.uint8(o.label), where=where)
        for px, pw, near in self.poles:                                    # nearer than all: they hide what passes
            x = int(px - cam * near)
            if -pw < x < W:
                xa, xb = max(x, 0), min(x + pw, W)
                rgb[:, xa:xb], lab[:, xa:xb] = self.pole_rgb, ID["pole"]
        if dy:
            rgb, lab = np.roll(rgb, dy, 0), np.roll(lab, dy, 0)
            edge = slice(0, 1) if dy > 0 else slice(H - 1, H)
            rgb[edge], lab[edge] = rgb[1 if dy > 0 else H - 2], lab[1 if dy > 0 else H - 2]
        return self.expose(rgb, t, rng), lab

    def expose(self, rgb: np.ndarray, t: int, rng: np.random.Generator) -> np.ndarray:
        hard = self.hard
        cast = (1 + 0.10 * hard * rng.standard_normal(3)) * (1 + 0.10 * hard * rng.standard_normal())
        sigma = 7 + 21 * hard * rng.random()
        kind, r = self.bad(t)
        rgb *= cast.astype(np.float32)
        if kind == 1:
            rgb *= np.float32(r.uniform(0.08, 0.18))
            sigma = 9
        elif kind == 2:
            rgb *= np.float32(0.22)
            rgb += np.float32(r.uniform(185, 205))
        elif kind == 3:
            gx, gy, s = r.uniform(0, W), r.uniform(0, H), r.uniform(40, 80)
            spot = np.exp(-((np.arange(H, dtype=np.float32)[:, None] - gy) ** 2 + (np.arange(W, dtype=np.float32) - gx) ** 2) / (2 * s * s))
            rgb += (330 * spot)[..., None]
        elif kind == 4:
            rgb[:, r.random(W) < 0.35] = np.float32(rng.uniform(60, 200))
        start = int(rng.integers(0, len(NOISE) - H * W * 3))
        noise = NOISE[start:start + H * W * 3].reshape(H, W, 3) * np.float32(sigma)
        if rng.random() < 0.3:                                             # coarse noise, as video coders leave it
            noise = noise[:H // 2, :W // 2].repeat(2, 0).repeat(2, 1)
        rgb += noise
        return np.clip(rgb, 0, 255, out=rgb).astype(np.uint8)

    def clip(self, times: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [self.frame(int(t)) for t in times]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


# -------------------------------------------------------------------------------------------------------- files
def write_png(path: str, image: np.ndarray, palette=None) -> None:
    """(H, W, 3) RGB, or (H, W) as a grey image, or as an indexed one when there is a palette."""
    h, w = image.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.zeros((h, 1 + image[0].size), np.uint8)
    rows[:, 1:] = image.reshape(h, -1)
    kind = 2 if image.ndim == 3 else 3 if palette else 0
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, kind, 0, 0, 0)))
        if palette and kind == 3:
            f.write(chunk(b"PLTE", bytes(np.array(palette, np.uint8).reshape(-1))))
        f.write(chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b""))


def write_mp4(path: str, frames, fps: int = 15, crf: int = 20) -> None:
    cmd = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{W}x{H}", "-r", str(fps), "-i", "-",
           "-c:v", "libx264", "-preset", "slow", "-crf", str(crf), "-pix_fmt", "yuv420p", "-movflags", "+faststart", path]
    with subprocess.Popen(cmd, stdin=subprocess.PIPE) as p:
        for f in frames:
            p.stdin.write(f.tobytes())


def main() -> None:
    a = argparse.ArgumentParser(description="synthetic labelled street video")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--frames", type=int, default=64)
    a.add_argument("--start", type=int, default=0)
    a.add_argument("--hard", type=float, default=1.0, help="scale of noise, cast and flicker")
    a.add_argument("-o", "--out", help="folder for frames/VIDEO/*.png and labels/VIDEO/*.png")
    a.add_argument("--mp4")
    a.add_argument("--fps", type=int, default=15)
    a.add_argument("--crf", type=int, default=20)
    args = a.parse_args()
    scene, times = Scene(args.seed, args.hard), range(args.start, args.start + args.frames)
    if args.mp4:
        write_mp4(args.mp4, (scene.frame(t)[0] for t in times), args.fps, args.crf)
    if args.out:
        for kind in ("frames", "labels"):
            os.makedirs(os.path.join(args.out, kind, f"{args.seed:05d}"), exist_ok=True)
        for i, t in enumerate(times):
            rgb, lab = scene.frame(t)
            name = f"{args.seed:05d}/{i:05d}.png"
            write_png(os.path.join(args.out, "frames", name), rgb)
            write_png(os.path.join(args.out, "labels", name), lab, PALETTE)


if __name__ == "__main__":
    main()
