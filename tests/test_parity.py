"""The published model's own outputs (tests/parity): the engine must reproduce them from the checkpoint on."""
from __future__ import annotations

import os
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

import arithmetic
from arithmetic import check, check_bf16, convert, run

import cases
import tv3s

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../models")
SWIN_WINDOW = 7


def relative_position_index() -> torch.Tensor:
    """index = (dy + 6) * 13 + (dx + 6) with d = query - key, tokens of a 7x7 window row by row."""
    y, x = np.divmod(np.arange(SWIN_WINDOW ** 2), SWIN_WINDOW)
    far = SWIN_WINDOW - 1
    return torch.from_numpy((y[:, None] - y + far) * (2 * far + 1) + x[:, None] - x + far)


def save_checkpoint(name: str, path) -> None:
    """In the layout of the published files."""
    case, shapes = cases.CASES[name], cases.shapes(name)
    weights = cases.weights(shapes, case["seed"])
    state = OrderedDict()
    for key in shapes:
        if key in weights:
            state[key] = torch.from_numpy(weights[key])
        elif "relative_position_index" in key:
            state[key] = relative_position_index()
        else:
            state[key] = torch.zeros(shapes[key], dtype=torch.int64)       # num_batches_tracked
    meta = {"mmseg_version": "0.11.0", "CLASSES": tuple(f"thing {i}" for i in range(case["classes"])),
            "PALETTE": [[i, 2 * i % 256, 3 * i % 256] for i in range(case["classes"])]}
    torch.save({"meta": meta, "state_dict": state}, path)


class Case:
    def __init__(self, name: str, folder):
        case = cases.CASES[name]
        self.folder = folder
        save_checkpoint(name, folder / "checkpoint.pth")
        self.model = convert(folder / "checkpoint.pth", folder / "model.safetensors")
        self.rgb = folder / "frames.rgb"
        self.name, self.seed = name, case["seed"]
        self.frames = cases.frames(case["hw"], case["T"], self.seed)
        self.frames.tofile(self.rgb)
        self.size = "{1}x{0}".format(*case["hw"])
        self.mode = "clip" if "clip" in name else "stream"
        gold = cases.golden(name)
        self.gold = gold["logits"], gold["masks"]
        self.done = {}

    def run(self, *options):
        if options not in self.done:
            self.done[options] = run(self.model, self.rgb, self.size, self.folder, "--mode", self.mode, *options)
        return self.done[options]


@pytest.fixture(scope="module", params=list(cases.CASES))
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def test_fp32_equals_the_published_outputs(case):
    check(*case.run(), *case.gold)


@pytest.mark.parametrize("isa", arithmetic.instruction_sets())
def test_every_instruction_set_does(case, isa):
    check(*case.run("--isa", isa), *case.gold)


@pytest.mark.skipif(not arithmetic.has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
def test_bf16_is_as_near_as_bf16_can_be(case):
    model = tv3s.build(cases.weights(cases.shapes(case.name), case.seed))
    check_bf16(case.run("--dtype", "bf16")[0], case.gold[0], model, case.frames, case.mode)


@pytest.mark.skipif(not arithmetic.has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
def test_bf16_keeps_the_bundled_models_masks(tmp_path):
    """Over the whole clip, with the state carried."""
    rgb = tmp_path / "street.rgb"
    subprocess.run(["ffmpeg", "-v", "error", "-i", os.path.join(MODELS, "street.mp4"), "-f", "rawvideo", "-pix_fmt",
                    "rgb24", rgb], check=True)
    (logits, masks), (gold_logits, gold_masks) = (
        run(os.path.join(MODELS, "street.safetensors"), rgb, "256x160", tmp_path, "--batch", "10", "--dtype", dtype)
        for dtype in ("bf16", "f32"))
    assert arithmetic.distance(logits, gold_logits) <= 5e-2
    assert arithmetic.rms(logits, gold_logits) <= 1e-2
    assert (masks == gold_masks).mean() >= 0.995


@pytest.mark.parametrize("options", [("--batch", "3"), ("--threads", "1")], ids=" ".join)
def test_batches_and_threads_do_not_matter(case, options):
    (logits, masks), (plain_logits, plain_masks) = case.run(*options), case.run()
    assert np.array_equal(logits, plain_logits) and np.array_equal(masks, plain_masks)
