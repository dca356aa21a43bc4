"""mIoU and video consistency of label videos (the quick evaluator of training; published numbers: `tv3s eval`)."""
from __future__ import annotations

import numpy as np


class Score:
    """Feed whole videos: truth and prediction (T, H, W) uint8, 255 in the truth is ignored."""

    def __init__(self, classes: int):
        self.k, self.confusion = classes, np.zeros((classes, classes), np.int64)
        self.vc: dict[int, list[float]] = {8: [], 16: []}

    def add(self, truth: np.ndarray, guess: np.ndarray) -> None:
        t, g = truth.reshape(-1).astype(np.int64), guess.reshape(-1)
        keep = t < self.k
        self.confusion += np.bincount(t[keep] * self.k + g[keep], minlength=self.k ** 2).reshape(self.k, self.k)
        right = truth == guess
        for n, values in self.vc.items():                                  # Eq. 4, over all runs of n frames
            for i in range(len(truth) - n + 1):
                still = (truth[i:i + n] == truth[i]).all(0) & (truth[i] < self.k)
                if still.any():
                    values.append(float((still & right[i:i + n].all(0)).sum() / still.sum()))

    def iou(self) -> np.ndarray:
        hit = np.diag(self.confusion)
        total = self.confusion.sum(0) + self.confusion.sum(1) - hit
        return np.where(self.confusion.sum(1) > 0, hit / np.maximum(total, 1), np.nan)

    def summary(self) -> dict[str, float]:
        mean = {f"mVC{n}": float(np.mean(v)) if v else float("nan") for n, v in self.vc.items()}
        return {"mIoU": float(np.nanmean(self.iou())), **mean}
