"""`tv3s eval` against mIoU and Eq. 4 in plain NumPy, on random label videos."""
from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

TV3S = os.path.join(os.environ.get("TV3S_BUILD", "build"), "tv3s")
IGNORE = 255


# ------------------------------------------------------------------------------------------- what it should be
def score(videos, classes: int) -> dict:
    """videos: [(prediction, truth)], each (C, H, W); truth counts from 0, IGNORE counts nowhere."""
    guess = np.concatenate([g.ravel() for g, _ in videos])
    truth = np.concatenate([t.ravel() for _, t in videos])
    guess, truth = guess[truth != IGNORE], truth[truth != IGNORE]
    iou = []
    for c in range(classes):
        either = np.count_nonzero((guess == c) | (truth == c))
        iou.append(np.count_nonzero((guess == c) & (truth == c)) / either if either else None)
    present = [iou[c] for c in range(classes) if (truth == c).any()]
    out = {"per_class_IoU": iou, "mIoU": np.mean(present) if present else None,
           "pixel_accuracy": np.mean(guess == truth) if len(truth) else None}
    for n in (8, 16):
        for name, same in ((f"mVC{n}", lambda o, m: (o == o[0]).all(0)),
                           (f"mVC{n}_correct", lambda o, m: (o == m).all(0))):
            each = [v for v in (consistency(g, t, n, same) for g, t in videos) if v is not None]
            out[name] = np.mean(each) if each else None
    return out


def consistency(guess: np.ndarray, truth: np.ndarray, n: int, same):
    """VC_n of one video: Eq. 4, window by window."""
    terms = []
    for i in range(len(truth) - n + 1):
        m, o = truth[i:i + n], guess[i:i + n]
        common = (m == m[0]).all(0) & (m[0] != IGNORE)
        if common.any():
            terms.append((common & same(o, m)).sum() / common.sum())
    return np.mean(terms) if terms else None


# ------------------------------------------------------------------------------------------------------ inputs
def label_video(rng, frames: int, size, classes: int, ignored: float = 0.1):
    """Ground truth that changes slowly, and a prediction that is mostly right, sometimes wrong for long."""
    truth = np.empty((frames, *size), np.uint8)
    guess = np.empty_like(truth)
    t = rng.integers(0, classes, size)
    wrong, other = rng.random(size) < 0.2, rng.integers(0, classes, size)
    for i in range(frames):
        t = np.where(rng.random(size) < 0.03, rng.integers(0, classes, size), t)
        other = np.where(rng.random(size) < 0.02, rng.integers(0, classes, size), other)
        noise = rng.random(size) < 0.02
        truth[i] = t
        guess[i] = np.where(noise, rng.integers(0, classes, size), np.where(wrong, other, t))
    truth[:, rng.random(size) < ignored / 2] = IGNORE                      # for good
    truth[rng.random(truth.shape) < ignored / 50] = IGNORE                 # now and then
    return guess, truth


def save(folder, frames, name="{:05d}.png", palette=True, **more) -> None:
    os.makedirs(folder, exist_ok=True)
    for i, frame in enumerate(frames):
        image = Image.fromarray(frame)
        if palette:                                                        # colours that are not the indices
            image.putpalette([(7 * v + 3 * c) % 256 for v in range(256) for c in range(3)])
        image.save(os.path.join(folder, name.format(i)), **more)


def tool(*args, check=True) -> subprocess.CompletedProcess:
    done = subprocess.run([TV3S, "eval", *map(str, args)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def evaluate(*args) -> dict:
    return json.loads(tool(*args).stdout)


def compare(result: dict, expected: dict) -> None:
    for key, value in expected.items():
        if value is None:
            assert result[key] is None, key
        elif key == "per_class_IoU":
            assert [v is None for v in result[key]] == [v is None for v in value]
            pairs = [(a, b) for a, b in zip(result[key], value) if b is not None]
            np.testing.assert_allclose(*zip(*pairs), atol=1e-8)
        else:
            assert result[key] == pytest.approx(value, abs=1e-8), key


# ------------------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("seed, classes, lengths", [
    (1, 5, (20,)), (2, 124, (17, 16, 33)), (3, 3, (7, 8, 15, 16, 1)), (4, 19, (40, 9)), (5, 2, (7, 3))])
def test_random_videos_agree_with_numpy(tmp_path, seed, classes, lengths):
    rng = np.random.default_rng(seed)
    videos = []
    for i, frames in enumerate(lengths):
        size = tuple(rng.integers(5, 40, 2))                               # sizes differ between videos
        videos.append(label_video(rng, frames, size, max(1, classes - 2)))  # the last two classes never occur
        save(tmp_path / "guess" / f"video{i}", videos[-1][0])
        save(tmp_path / "truth" / f"video{i}", videos[-1][1], palette=False)
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", classes)
    compare(result, score(videos, classes))
    assert result["videos"] == len(lengths) and result["frames"] == sum(lengths)
    assert result["mVC8_videos"] == sum(n >= 8 for n in lengths)
    assert result["pixels"] == sum((t != IGNORE).sum() for _, t in videos)
    assert result["classes"] == classes


def test_two_folders_of_frames_are_one_video(tmp_path):
    guess, truth = label_video(np.random.default_rng(6), 18, (30, 21), 4)
    save(tmp_path / "guess", guess)
    save(tmp_path / "truth", truth)
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", 4)
    compare(result, score([(guess, truth)], 4))
    assert result["videos"] == 1


def test_reduce_zero_label_shifts_the_ground_truth_alone(tmp_path):
    guess, truth = label_video(np.random.default_rng(7), 16, (12, 40), 6)
    stored = np.where(truth == IGNORE, truth, truth + 1).astype(np.uint8)
    stored[stored == 3], truth[truth == 2] = 0, IGNORE
    save(tmp_path / "guess", guess)
    save(tmp_path / "truth", stored)
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes=6", "--reduce-zero-label")
    compare(result, score([(guess, truth)], 6))


def test_another_label_can_be_ignored(tmp_path):
    guess, truth = label_video(np.random.default_rng(8), 16, (12, 14), 6)
    save(tmp_path / "guess", guess)
    save(tmp_path / "truth", np.where(truth == IGNORE, 77, truth).astype(np.uint8))
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--ignore", 77, "--classes", 6)
    compare(result, score([(guess, truth)], 6))


def test_a_class_counts_where_the_ground_truth_has_it(tmp_path):
    truth, guess = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    guess[0, 0] = 2                                                        # 4 of 16 pixels: a class nowhere in truth
    save(tmp_path / "guess", guess)
    save(tmp_path / "truth", truth)
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", 4)
    assert result["per_class_IoU"] == [0.75, None, 0, None]
    assert result["mIoU"] == 0.75 and result["classes_in_ground_truth"] == 1


def test_perfect_and_all_ignored(tmp_path):
    truth = label_video(np.random.default_rng(9), 16, (9, 9), 3)[1]
    save(tmp_path / "truth", truth)
    result = evaluate(tmp_path / "truth", tmp_path / "truth", "--classes", 3)
    assert result["mIoU"] == result["pixel_accuracy"] == result["mVC8_correct"] == result["mVC16"] == 1
    save(tmp_path / "void", np.full_like(truth, IGNORE))
    result = evaluate(tmp_path / "truth", tmp_path / "void", "--classes", 3)
    assert result["mIoU"] is result["pixel_accuracy"] is result["mVC8"] is None
    assert result["per_class_IoU"] == [None] * 3 and result["pixels"] == 0


def test_frames_follow_each_other_by_number(tmp_path):
    """Names without leading zeros: 9.png comes before 10.png, or VC_n would be another."""
    guess, truth = label_video(np.random.default_rng(10), 23, (16, 16), 3)
    save(tmp_path / "guess", guess, "frame{}.png")
    save(tmp_path / "truth", truth, "frame{}.png")
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", 3)
    compare(result, score([(guess, truth)], 3))


def test_unlabelled_frames_may_be_predicted_too(tmp_path):
    guess, truth = label_video(np.random.default_rng(11), 10, (16, 16), 3)
    save(tmp_path / "guess" / "a", guess)
    save(tmp_path / "guess" / "b", guess)
    save(tmp_path / "truth" / "a", truth[:4])
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", 3)
    compare(result, score([(guess[:4], truth[:4])], 3))
    assert result["frames"] == 4


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_depths_of_label_images(tmp_path, bits):
    classes = min(1 << bits, 20)
    guess, truth = label_video(np.random.default_rng(12), 2, (11, 13), classes, 0)
    if bits == 16:
        guess, truth = (v.astype(np.uint16) for v in (guess, truth))
        truth[truth == 19] = 300
        more = {"palette": False}
    else:
        more = {"bits": bits}
    save(tmp_path / "guess", guess, **more)
    save(tmp_path / "truth", truth, **more)
    result = evaluate(tmp_path / "guess", tmp_path / "truth", "--classes", classes, "--ignore", 300)
    truth[truth == 300] = IGNORE
    compare(result, score([(guess, truth)], classes))


# ------------------------------------------------------------------------------------------------ wrong inputs
@pytest.fixture
def pair(tmp_path):
    guess, truth = label_video(np.random.default_rng(13), 3, (8, 8), 3)
    save(tmp_path / "guess" / "a", guess)
    save(tmp_path / "truth" / "a", truth)
    return tmp_path


def refused(folder, *more, status=1) -> str:
    done = tool(folder / "guess", folder / "truth", *(more or ("--classes", 3)), check=False)
    assert done.returncode == status and done.stdout == ""
    assert done.stderr.startswith("tv3s eval: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_missing_frame_or_video_is_named(pair):
    os.remove(pair / "guess/a/00001.png")
    assert "truth/a/00001.png has no prediction: " in refused(pair)
    assert "guess/a/00001.png: No such file" in refused(pair)
    os.rename(pair / "guess/a", pair / "guess/b")
    assert "guess/a/00000.png: No such file" in refused(pair)


def test_sizes_must_agree(pair):
    save(pair / "guess/a", np.zeros((3, 8, 9), np.uint8))
    assert "00000.png is 9x8, but its ground truth is 8x8" in refused(pair)
    save(pair / "guess/a", np.zeros((3, 8, 8), np.uint8))
    for side in ("guess", "truth"):
        save(pair / side / "a", np.zeros((1, 4, 8), np.uint8), "00002.png")
    assert "00002.png is 8x4, but the frame before is 8x8" in refused(pair)


def test_labels_beyond_the_classes(pair):
    save(pair / "guess/a", np.full((3, 8, 8), 3, np.uint8))
    assert "00000.png: the prediction has label 3" in refused(pair)
    save(pair / "truth/a", np.full((3, 8, 8), 254, np.uint8))
    assert "the ground truth has label 254" in refused(pair)


def test_files_that_are_no_label_images(pair):
    path = pair / "guess/a/00001.png"
    whole = path.read_bytes()
    for content in (b"", b"no image at all", whole[:-30], whole[:60], whole.replace(b"IDAT", b"IDAX")):
        path.write_bytes(content)
        assert "guess/a/00001.png: " in refused(pair)
    Image.new("RGB", (8, 8)).save(path)
    assert "a colour image" in refused(pair)
    Image.new("L", (20000, 2)).save(path)
    assert "00001.png: " in refused(pair)


def test_folders_that_hold_no_frames(pair):
    os.makedirs(pair / "truth/b")
    assert "truth/b holds no PNG file" in refused(pair)
    save(pair / "truth", np.zeros((1, 8, 8), np.uint8))
    assert "holds both PNG files and folders" in refused(pair)
    os.makedirs(pair / "empty")
    done = tool(pair / "guess", pair / "empty", "--classes", 3, check=False)
    assert done.returncode == 1 and "holds neither" in done.stderr
    done = tool(pair / "guess", pair / "nowhere", "--classes", 3, check=False)
    assert done.returncode == 1 and "nowhere: No such file" in done.stderr


@pytest.mark.parametrize("more, text", [
    ((), "--classes is missing"), (("--classes", "0"), "not 1..1024"), (("--classes", "3x"), "not 1..1024"),
    (("--classes", "3", "--ignore", "-1"), "not 0..65535"), (("--classes", "3", "more"), "two folders"),
    (("--classes", "3", "--colour"), "unrecognized option")])
def test_wrong_arguments(pair, more, text):
    done = tool(pair / "guess", pair / "truth", *more, check=False)
    assert done.returncode == 2 and text in done.stderr and done.stderr.startswith("tv3s eval: ")


def test_help():
    assert tool("--help").stdout.startswith("usage: tv3s eval PREDICTED GROUND_TRUTH --classes K")
