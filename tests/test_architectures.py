"""Every architecture, head, window and mode against the PyTorch model of reference/, on odd sizes too.

Each case is made by reference/golden.py (weights and frames from a seed), converted by `tv3s convert` and run by
`tv3s logits`. The bar is that of the parity files. Sizes are small, the number of frames such that the masks hold
some thousand pixels: a single near tie must not decide.
"""
from __future__ import annotations

import numpy as np
import pytest

import arithmetic
from arithmetic import check, convert, run

import golden

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


def make(name: str, folder):
    about = golden.make({"seed": 300 + list(CASES).index(name), **CASES[name]}, str(folder))
    model = convert(folder / about["weights"], folder / "engine.safetensors", *about["convert"])
    (folder / about["weights"]).unlink()                                   # up to 800 MB
    return about, model


def compare(about, model, folder, *options, dtype="f32") -> None:
    logits, masks = run(model, folder / about["frames"], about["size"], folder, "--mode", about["mode"], *options)
    check(logits, masks, np.load(folder / "logits.npy"), np.load(folder / "masks.npy"), dtype)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name, tmp_path):
    about, model = make(name, tmp_path)
    compare(about, model, tmp_path)
    (tmp_path / model).unlink()


@pytest.mark.parametrize("name", EVERY_ISA)
def test_every_instruction_set_equals_the_reference(name, tmp_path):
    about, model = make(name, tmp_path)
    for isa in arithmetic.instruction_sets():
        print(isa)
        compare(about, model, tmp_path, "--isa", isa)


@pytest.mark.skipif(not arithmetic.has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
@pytest.mark.parametrize("name", EVERY_ISA)
def test_bf16_is_near_the_reference(name, tmp_path):
    about, model = make(name, tmp_path)
    compare(about, model, tmp_path, "--dtype", "bf16", dtype="bf16")


@pytest.mark.parametrize("name", ["mit_33x47", "swin_clip", "tiny_concat_clip", "segformer_hf_33x47"])
def test_batches_equal_single_frames(name, tmp_path):
    about, model = make(name, tmp_path)
    runs = [run(model, tmp_path / about["frames"], about["size"], tmp_path, "--mode", about["mode"], "--batch", batch)
            for batch in (1, 2, 3, 4)]
    for logits, masks in runs[1:]:
        assert np.array_equal(logits, runs[0][0]) and np.array_equal(masks, runs[0][1])
