"""The reference against the published outputs, and its parts against each other.

    pytest reference        (TV3S_PARITY: the folder of the parity files, tests/parity by default)
"""
from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fastscan
import golden
import metrics
import synth
import tv3s


def small_model(**more) -> tv3s.TV3S:
    torch.manual_seed(3)
    g = tv3s.config("", **{**dict(dims=(32, 64, 64, 96), depths=(1, 1, 1, 1), embed=32, window=4, shift=2, blocks=2,
                                  classes=5, conv_seg=False), **more})
    return tv3s.TV3S(g).eval()


def test_equals_the_published_outputs():
    assert tv3s.selftest(golden.PARITY) == []


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_frame_by_frame_with_carried_state_equals_one_scan(shift):
    model, rgb = small_model(shift=shift), torch.rand(1, 5, 3, 40, 72) * 255
    with torch.no_grad():
        whole, _ = model(rgb)
        state, parts = None, []
        for t in range(5):
            logits, state = model(rgb[:, t:t + 1], state)
            parts.append(logits)
    assert torch.allclose(whole, torch.cat(parts, 1), atol=1e-4)


def test_clips_of_a_batch_do_not_mix():
    model, rgb = small_model(), torch.rand(2, 3, 3, 40, 72) * 255
    with torch.no_grad():
        both, one = model(rgb)[0], model(rgb[1:])[0]
    assert torch.allclose(both[1:], one, atol=1e-4)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_c_scan_has_the_values_and_gradients_of_the_plain_one():
    plain = tv3s.SCAN, tv3s.CONV
    try:
        assert fastscan.install() and fastscan.check() < 1e-4
    finally:
        tv3s.SCAN, tv3s.CONV = plain


def test_architecture_follows_from_the_shapes():
    for arch in tv3s.ARCHS:
        g = tv3s.config(arch, classes=3, embed=16, blocks=1, window=4, shift=2)
        if g.dims[-1] * sum(g.depths) > 12000:
            continue                                                       # large ones follow the same rule
        found = tv3s.config_of(tv3s.TV3S(g).state_dict(), window=4, shift=2)
        assert found == g, arch


def test_golden_case_is_written_and_read_back(tmp_path):
    case = dict(dims=(32, 64, 64, 96), depths=(1, 1, 1, 1), embed=32, window=4, shift=2, blocks=1, classes=5,
                hw=(33, 50), T=2)
    about = golden.make(case, str(tmp_path))
    model = tv3s.load(str(tmp_path / about["weights"]), window=4, shift=2)
    rgb = np.fromfile(tmp_path / "frames.rgb", np.uint8).reshape(2, 33, 50, 3)
    logits = np.stack([logits for logits, _ in tv3s.run(model, rgb)])
    assert np.allclose(logits, np.load(tmp_path / "logits.npy"), atol=1e-4)


def test_synthetic_video_is_the_same_for_the_same_seed():
    a, b = synth.Scene(11).frame(7), synth.Scene(11).frame(7)
    assert (a[0] == b[0]).all() and (a[1] == b[1]).all() and (a[0] != synth.Scene(12).frame(7)[0]).any()


def test_score_of_a_perfect_prediction_is_one():
    score, truth = metrics.Score(3), np.random.default_rng(1).integers(0, 3, (1, 4, 5), np.uint8).repeat(16, 0)
    score.add(truth, truth.copy())
    assert set(score.summary().values()) == {1.0}
