"""Shared by the end-to-end tests: the tool under test and a small random model."""
from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("TV3S_BUILD", os.path.join(HERE, "../build"))
TV3S = os.path.join(BUILD, "tv3s")
SANITIZED = os.path.basename(BUILD.rstrip("/")) in ("asan", "tsan")
sys.path[:0] = [os.path.join(HERE, "parity")]

CLASSES = ["sky", "road", "tree", "person", "car"]
PALETTE = [[10, 200, 30], [250, 0, 7], [0, 90, 255], [128, 128, 0], [255, 255, 255]]


def tiny_shapes(dims=(32, 64, 96, 128), embed=32, layers=2, classes=5) -> dict:
    """A TV3S model of a shape that nobody published: one block a stage, two layers of windows."""
    inner, rank = 2 * embed, (embed + 15) // 16
    s = {}

    def linear(name, out, *rest):
        s[name + ".weight"], s[name + ".bias"] = (out, *rest), (out,)

    for i, (c, kernel, sr) in enumerate(zip(dims, (7, 3, 3, 3), (8, 4, 2, 1)), 1):
        block = f"backbone.block{i}.0"
        linear(f"backbone.patch_embed{i}.proj", c, dims[i - 2] if i > 1 else 3, kernel, kernel)
        for norm in (f"backbone.patch_embed{i}.norm", f"{block}.norm1", f"{block}.norm2", f"backbone.norm{i}"):
            linear(norm, c)
        linear(f"{block}.attn.q", c, c)
        linear(f"{block}.attn.kv", 2 * c, c)
        linear(f"{block}.attn.proj", c, c)
        if sr > 1:
            linear(f"{block}.attn.sr", c, c, sr, sr)
            linear(f"{block}.attn.norm", c)
        linear(f"{block}.mlp.fc1", 4 * c, c)
        linear(f"{block}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
        linear(f"{block}.mlp.fc2", c, 4 * c)
        linear(f"decode_head.linear_c{i}.proj", embed, c)
    for i in range(layers):
        mixer = f"decode_head.vs.layers.{i}.mixer"
        s[f"decode_head.vs.layers.{i}.norm.weight"] = (embed,)
        s[f"{mixer}.A_log"], s[f"{mixer}.D"] = (inner, 16), (inner,)
        s[f"{mixer}.in_proj.weight"], s[f"{mixer}.out_proj.weight"] = (2 * inner, embed), (embed, inner)
        s[f"{mixer}.x_proj.weight"] = (rank + 32, inner)
        linear(f"{mixer}.conv1d", inner, 1, 4)
        linear(f"{mixer}.dt_proj", inner, rank)
    s["decode_head.vs.norm_f.weight"] = (embed,)
    s["decode_head.linear_fuse.conv.weight"] = (embed, 4 * embed, 1, 1)
    linear("decode_head.linear_fuse.bn", embed)
    s["decode_head.linear_fuse.bn.running_mean"] = s["decode_head.linear_fuse.bn.running_var"] = (embed,)
    linear("decode_head.linear_pred", classes, embed, 1, 1)
    linear("decode_head.linear_pred2", classes, embed, 1, 1)
    return s


def make_tiny_model(folder, **shapes) -> str:
    """A model file of five classes, window 8, native size, made by `tv3s convert` of a .pth."""
    import cases
    import torch
    state = {k: torch.from_numpy(v) for k, v in cases.weights(tiny_shapes(**shapes), 7).items()}
    pth, model = folder / "tiny.pth", folder / "tiny.safetensors"
    torch.save({"state_dict": state, "meta": {"CLASSES": tuple(CLASSES), "PALETTE": PALETTE}}, pth)
    subprocess.run([TV3S, "convert", pth, "-o", model, "--window", "8", "--shift", "4", "--resize", "native"],
                   check=True, stdout=subprocess.DEVNULL)
    return str(model)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    """One daemon for the tests of a file."""
    from daemon import Daemon
    with Daemon(tiny_model, tmp_path_factory.mktemp("daemon") / "spool") as d:
        yield d


# A file of tests that stream says SIZE (height and width), COUNT and SEED.
@pytest.fixture(scope="module")
def frames(request):
    """Those COUNT frames, as (frames, height, width, 3)."""
    import cases
    return cases.frames(request.module.SIZE, request.module.COUNT, request.module.SEED)


@pytest.fixture(scope="module")
def expected(tiny_model, frames, tmp_path_factory):
    """Their masks by `tv3s logits`, as one stream."""
    from live import tool_masks
    return tool_masks(tiny_model, frames, tmp_path_factory.mktemp("expected"))


@pytest.fixture(scope="module")
def picture() -> bytes:
    """One frame as a PNG file."""
    import cases
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(cases.frames((64, 96), 1, 5)[0]).save(out, "PNG")
    return out.getvalue()
