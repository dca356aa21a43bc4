"""`tv3s logits`: its files and its refusals. The arithmetic is in test_parity.py and test_architectures.py."""
from __future__ import annotations

import os

import numpy as np
import pytest

import arithmetic
from arithmetic import convert, tool

import golden

CASE = dict(dims=(32, 64, 128, 160), depths=(1, 1, 1, 1), embed=64, classes=15, window=8, shift=4, blocks=1,
            hw=(48, 64), T=4, seed=5)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")
    about = golden.make(CASE, str(folder))
    convert(folder / about["weights"], folder / "model", *about["convert"])
    return folder


def logits(case, *options, rgb="frames.rgb", size="64x48", check=True):
    return tool("logits", case / "model", "--rgb", case / rgb, "--size", size, *options, check=check)


def refused(case, text: str, *options, status=1, **more) -> None:
    before = sorted(os.listdir(case))
    done = logits(case, *options, check=False, **more)
    assert done.returncode == status and done.stdout == ""
    assert done.stderr.startswith("tv3s logits: ") and text in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(os.listdir(case)) == before                              # no output, no leftovers


def test_either_output_alone_is_the_same_as_both(case, tmp_path):
    paths = {name: tmp_path / name for name in ("both.l", "both.m", "only.l", "only.m")}
    logits(case, "--logits", paths["both.l"], "--masks", paths["both.m"])
    logits(case, "--logits", paths["only.l"])
    logits(case, "--masks", paths["only.m"])
    assert paths["both.l"].read_bytes() == paths["only.l"].read_bytes()
    assert paths["both.m"].read_bytes() == paths["only.m"].read_bytes()
    values, masks = np.load(paths["only.l"]), np.load(paths["only.m"])
    assert values.shape == (4, 15, 8, 8) and values.dtype == np.float32
    assert masks.shape == (4, 48, 64) and masks.dtype == np.uint8


def test_a_clip_is_one_output(case, tmp_path):
    logits(case, "--mode", "clip", "--masks", tmp_path / "m")
    assert np.load(tmp_path / "m").shape == (1, 48, 64)


def test_an_output_that_exists_is_replaced(case, tmp_path):
    (tmp_path / "m").write_text("old")
    logits(case, "--masks", tmp_path / "m")
    assert np.load(tmp_path / "m").shape == (4, 48, 64)
    assert os.listdir(tmp_path) == ["m"]


def test_frames_must_be_whole(case):
    refused(case, "no whole number of 65x48 RGB24 frames", "--masks", case / "m", size="65x48")
    (case / "empty").write_bytes(b"")
    refused(case, "no whole number", "--masks", case / "m", rgb="empty")
    (case / "three").write_bytes((case / "frames.rgb").read_bytes()[:3 * 64 * 48 * 3])
    refused(case, "3 frames are no whole number of clips of 4", "--masks", case / "m", "--mode", "clip", rgb="three")
    refused(case, "nowhere: No such file", "--masks", case / "m", rgb="nowhere")


def test_frames_too_small_for_the_network_are_refused(case):
    refused(case, "32", "--masks", case / "m", size="16x192")


def test_places_that_cannot_be_written(case):
    refused(case, "nowhere", "--masks", case / "nowhere/m")
    refused(case, "cannot write", "--logits", case / "fine", "--masks", case)


def test_devices_that_are_not_there(case):
    refused(case, "", "--masks", case / "m", "--isa", "avx1024")
    refused(case, "", "--masks", case / "m", "--device", "cuda:17")


@pytest.mark.skipif(arithmetic.has_bf16(), reason="this CPU has bfloat16 products")
def test_bf16_is_refused_where_the_cpu_has_none(case):
    refused(case, "bf16", "--masks", case / "m", "--dtype", "bf16")


def test_a_file_that_is_no_model_is_refused(case):
    done = tool("logits", case / "frames.rgb", "--rgb", case / "frames.rgb", "--size", "64x48", "--masks", case / "m",
                check=False)
    assert done.returncode == 1 and "tv3s convert" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("options, text", [
    ((), "--logits or --masks is needed"), (("--batch", "0"), "--batch cannot be '0'"),
    (("--mode", "film"), "--mode cannot be 'film', but stream, clip or frame"),
    (("--dtype", "f16"), "--dtype cannot be 'f16', but f32, bf16 or tf32"),
    (("--device", "gpu"), "--device cannot be 'gpu'"), (("--threads", "-1"), "--threads cannot be '-1'"),
    (("another",), "one model file is needed"), (("--color",), "unrecognized option")])
def test_wrong_arguments(case, options, text):
    refused(case, text, *options, status=2)


def test_help():
    assert tool("logits", "--help").stdout.startswith("usage: tv3s logits MODEL --rgb FILE --size WxH")
