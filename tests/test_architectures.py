"""Every architecture, head, window and mode against the PyTorch model of reference/, on odd sizes too.

Each case is made by reference/golden.py (weights and frames from a seed), converted by `tv3s convert` and run by
`tv3s logits`. The bar is that of the parity files. Sizes are small, the number of frames such that the masks hold
some thousand pixels: a single near tie must not decide.
"""
from __future__ import annotations

import shutil

import numpy as np
import pytest

import arithmetic
from arithmetic import check, check_bf16, convert, run

import golden
import tv3s

TINY = dict(dims=(32, 64, 128, 160), depths=(1, 1, 2, 1), embed=64, classes=15)     # of no published size
MORE = {
    "mit_32x32": dict(arch="mit_b0", hw=(32, 32), T=8, classes=19),
    "mit_33x47": dict(arch="mit_b1", hw=(33, 47), T=4, classes=19),
    "mit_65x129": dict(arch="mit_b1", hw=(65, 129), T=2, classes=124),
    "mit_tall": dict(arch="mit_b0", hw=(300, 40), T=2, classes=19),
    "swin_32x32": dict(arch="swin_t", hw=(32, 32), T=8, classes=19),
    "swin_65x129": dict(arch="swin_t", hw=(65, 129), T=2, classes=124),
    "swin_wide": dict(arch="swin_t", hw=(40, 300), T=2, classes=19),
    "swin_clip": dict(arch="swin_t", hw=(64, 96), T=4, classes=19, mode="clip"),
    "swin_frame": dict(arch="swin_t", hw=(64, 96), T=2, classes=19, mode="frame"),
    "swin_add": dict(arch="swin_t", hw=(64, 96), T=2, classes=19, output="add"),
    "tiny_concat_clip": dict(**TINY, hw=(96, 160), T=8, output="concat", mode="clip", window=8, shift=4, blocks=2),
    "tiny_add": dict(**TINY, hw=(96, 160), T=3, output="add", window=8, shift=4, blocks=2),
    "tiny_window20": dict(**TINY, hw=(200, 360), T=3),
    "tiny_window5_shift1": dict(**TINY, hw=(90, 134), T=3, window=5, shift=1, blocks=3),
    "tiny_window6_shift5": dict(**TINY, hw=(90, 134), T=3, window=6, shift=5, blocks=1),
    "tiny_window1": dict(**TINY, hw=(64, 64), T=2, window=1, shift=0, blocks=1),
    "tiny_state8_conv3": dict(**TINY, hw=(96, 128), T=3, window=8, shift=4, blocks=1, state=8, conv=3),
    "tiny_one_class": dict(**{**TINY, "classes": 1}, hw=(64, 96), T=2, window=8, shift=4, blocks=1),
    "tiny_255_classes": dict(**{**TINY, "classes": 255}, hw=(64, 96), T=2, window=8, shift=4, blocks=1),
    "segformer_32x32": dict(arch="mit_b0", hw=(32, 32), T=8, classes=19, head="segformer"),
    "segformer_hf_33x47": dict(arch="mit_b1", hw=(33, 47), T=4, classes=19, head="segformer", naming="hf"),
    "segformer_hf_b3": dict(arch="mit_b3", hw=(64, 96), T=2, classes=150, head="segformer", naming="hf", embed=768),
}
CASES = {**golden.CASES, **MORE}
# The same arithmetic through other code: not needed for each size of a family.
EVERY_ISA = ["mit_33x47", "swin_65x129", "tiny_window6_shift5", "segformer_hf_33x47", "tiny_state8_conv3"]


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)                                                # weights of up to 800 MB


def make(name: str, folder):
    about = golden.make({"seed": 300 + list(CASES).index(name), **CASES[name]}, str(folder))
    return about, convert(folder / about["weights"], folder / "engine.safetensors", *about["convert"])


def engine(about, model, folder, *options):
    return run(model, folder / about["frames"], about["size"], folder, "--mode", about["mode"], *options)


def compare(about, model, folder, *options) -> None:
    check(*engine(about, model, folder, *options), np.load(folder / "logits.npy"), np.load(folder / "masks.npy"))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name, folder):
    about, model = make(name, folder)
    compare(about, model, folder)


@pytest.mark.parametrize("name", EVERY_ISA)
def test_every_instruction_set_equals_the_reference(name, folder):
    about, model = make(name, folder)
    for isa in arithmetic.instruction_sets():
        print(isa)
        compare(about, model, folder, "--isa", isa)


@pytest.mark.skipif(not arithmetic.has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
@pytest.mark.parametrize("name", ["mit_33x47", "swin_65x129", "tiny_window6_shift5", "tiny_concat_clip", "tiny_add"])
def test_bf16_is_as_near_as_bf16_can_be(name, folder):
    about, model = make(name, folder)
    more = {key: CASES[name][key] for key in ("window", "shift", "output") if key in CASES[name]}
    reference = tv3s.load(str(folder / about["weights"]), **more)
    width, height = map(int, about["size"].split("x"))
    frames = np.fromfile(folder / about["frames"], np.uint8).reshape(-1, height, width, 3)
    check_bf16(engine(about, model, folder, "--dtype", "bf16")[0], np.load(folder / "logits.npy"), reference, frames,
               about["mode"])


@pytest.mark.parametrize("name", ["mit_33x47", "swin_clip", "tiny_concat_clip", "segformer_hf_33x47"])
def test_batches_equal_single_frames(name, folder):
    about, model = make(name, folder)
    single = engine(about, model, folder, "--batch", 1)
    for batch in (2, 3, 4):
        many = engine(about, model, folder, "--batch", batch)
        assert np.array_equal(many[0], single[0]) and np.array_equal(many[1], single[1])
