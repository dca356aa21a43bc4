"""Independent readers of what `tv3s segment` writes, and makers of what it reads."""
from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import zipfile
import zlib

import numpy as np
from PIL import Image


# --------------------------------------------------------------------------------------------------- readers
def png(data: bytes, palette=None) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.mode == ("P" if palette is not None else "L")
    if palette is not None:
        assert image.getpalette()[:3 * len(palette)] == [v for rgb in palette for v in rgb]
    return np.array(image)


def zipped(path, palette) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        assert z.namelist() == [f"{i:06d}.png" for i in range(len(z.namelist()))]
        return [png(z.read(n), palette) for n in z.namelist()]


def folder(path, palette) -> list[np.ndarray]:
    return [png(open(os.path.join(path, n), "rb").read(), palette) for n in sorted(os.listdir(path))]


def raw(path, size) -> list[np.ndarray]:
    w, h = size
    return list(np.fromfile(path, np.uint8).reshape(-1, h, w))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in open(path)]


def rle(o: dict) -> np.ndarray:
    pairs = np.array(o["runs"]).reshape(-1, 2)
    return np.repeat(pairs[:, 0].astype(np.uint8), pairs[:, 1]).reshape(o["size"])


def coco(o: dict) -> np.ndarray:
    """The definition in MASKS.md, read literally."""
    h, w = o["size"]
    out = np.full(h * w, 255, np.uint8)
    for segment in o["segments"]:
        lengths, text = [], [ord(c) - 48 for c in segment["counts"]]
        while text:
            groups = []
            while True:
                assert 0 <= text[0] < 64
                groups.append(text.pop(0))
                if groups[-1] < 32:
                    break
            v = sum((g & 31) << 5 * i for i, g in enumerate(groups))
            if groups[-1] & 16:
                v -= 1 << 5 * len(groups)
            lengths.append(v + lengths[-2] if len(lengths) > 2 else v)
        ends = np.cumsum(lengths)
        assert ends[-1] == h * w and min(lengths[1:], default=1) > 0
        for start, end in zip(ends[0::2], ends[1::2]):
            assert (out[start:end] == 255).all()
            out[start:end] = segment["category_id"]
    return out.reshape(w, h).T


def probe(path, *what) -> str:
    return subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0", *what, path],
                          check=True, capture_output=True, text=True).stdout


def times(path) -> list[float]:
    """Presentation times in seconds, as shown."""
    out = probe(path, "-show_entries", "frame=pts_time")
    return [float(t.strip(",")) for t in out.split()]


def size(path) -> tuple[int, int]:
    w, h = probe(path, "-show_entries", "stream=width,height").strip().strip(",").split(",")[:2]
    return int(w), int(h)


def decoded(path, pixels: str, shape) -> np.ndarray:
    """What FFmpeg's own tool makes of a video, cropped and upright, as (frames, height, width[, 3]). By one thread: with
    more, HEVC of several slices comes out otherwise now and then."""
    done = subprocess.run(["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-f", "rawvideo", "-vsync", "passthrough",
                           "-sws_flags", "bilinear+accurate_rnd+full_chroma_int", "-pix_fmt", pixels, "-"],
                          capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *shape)


# ---------------------------------------------------------------------------------------------------- makers
def ffmpeg(*args) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, args)], check=True)


def images(path, frames: np.ndarray, ext: str = "png") -> str:
    os.makedirs(path, exist_ok=True)
    for i, f in enumerate(frames):
        Image.fromarray(f).save(os.path.join(path, f"{i:04d}.{ext}"))
    return str(path)


def video(path, frames: np.ndarray, *codec, rate=25) -> str:
    h, w = frames.shape[1:3]
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}",
                    "-r", str(rate), "-i", "-", *codec, str(path)], input=frames.tobytes(), check=True)
    return str(path)


def filtered_png(labels: np.ndarray) -> bytes:
    """A gray PNG whose lines use the five filters in turn, in three IDAT chunks, by the book."""
    h, w = labels.shape
    x = labels.astype(int)
    a, b = np.pad(x, ((0, 0), (1, 0)))[:, :-1], np.pad(x, ((1, 0), (0, 0)))[:-1]
    c = np.pad(x, ((1, 0), (1, 0)))[:-1, :-1]
    pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    guess = [0 * x, a, b, (a + b) // 2, paeth]
    data = zlib.compress(b"".join(bytes([y % 5]) + ((x[y] - guess[y % 5][y]) % 256).astype(np.uint8).tobytes()
                                  for y in range(h)))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    cut = len(data) // 3
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0)) + chunk(b"IDAT", data[:cut])
            + chunk(b"IDAT", data[cut:2 * cut]) + chunk(b"IDAT", data[2 * cut:]) + chunk(b"IEND", b""))
