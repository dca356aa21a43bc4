"""Long videos: the hidden state does not drift away from the reference."""
from __future__ import annotations

import numpy as np
import pytest

import arithmetic
from arithmetic import convert, run

import golden

FRAMES = 500
CASE = dict(dims=(32, 64, 128, 160), depths=(1, 1, 1, 1), embed=64, classes=15, window=8, shift=4, blocks=2,
            hw=(64, 96), T=FRAMES, seed=77)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    about = golden.make(CASE, str(folder))
    return folder, about, convert(folder / about["weights"], folder / "engine.safetensors", *about["convert"])


def errors(case, *options) -> np.ndarray:
    """max |dlogit| / std(logits) of each frame."""
    folder, about, model = case
    logits, _ = run(model, folder / about["frames"], about["size"], folder, *options)
    gold = np.load(folder / "logits.npy")
    assert len(gold) == FRAMES
    return np.abs(logits - gold).max((1, 2, 3)) / gold.std((1, 2, 3))


def test_the_error_of_frame_500_is_that_of_frame_3(case):
    error = errors(case)
    print(f"frame 3: {error[3]:.1e}, last 50: median {np.median(error[-50:]):.1e}, worst {error.max():.1e}")
    assert error.max() <= arithmetic.LOGITS_BAR
    assert np.median(error[-50:]) <= 3 * np.median(error[1:20])            # noise, no growth


@pytest.mark.skipif(not arithmetic.has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
def test_bf16_does_not_drift_either(case):
    error = errors(case, "--dtype", "bf16", "--batch", 25)
    print(f"frame 3: {error[3]:.1e}, last 50: median {np.median(error[-50:]):.1e}, worst {error.max():.1e}")
    assert np.median(error[-50:]) <= 3 * np.median(error[1:20])
