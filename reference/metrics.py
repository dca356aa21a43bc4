"""mIoU and video consistency of label videos, defined as in `tv3s eval` (the quick evaluator of training)."""
from __future__ import annotations

import numpy as np


class Score:
    """Feed whole videos: truth and prediction (T, H, W) uint8, 255 in the truth is ignored."""

    def __init__(self, classes: int):
        self.k, self.confusion = classes, np.zeros((classes, classes), np.int64)
        self.vc: dict[str, list[float]] = {f"mVC{n}{c}": [] for n in (8, 16) for c in ("", "_correct")}

    def add(self, truth: np.ndarray, guess: np.ndarray) -> None:
        t, g = truth.reshape(-1).astype(np.int64), guess.reshape(-1)
        keep = t < self.k
        self.confusion += np.bincount(t[keep] * self.k + g[keep], minlength=self.k ** 2).reshape(self.k, self.k)
        right = truth == guess
        for n in (8, 16):                                                  # Eq. 4, mean over all runs of n frames
            same, correct = [], []
            for i in range(len(truth) - n + 1):
                still = (truth[i:i + n] == truth[i]).all(0) & (truth[i] < self.k)
                if still.any():
                    same.append((still & (guess[i:i + n] == guess[i]).all(0)).sum() / still.sum())
                    correct.append((still & right[i:i + n].all(0)).sum() / still.sum())
            if same:
                self.vc[f"mVC{n}"].append(float(np.mean(same)))
                self.vc[f"mVC{n}_correct"].append(float(np.mean(correct)))

    def iou(self) -> np.ndarray:
        hit = np.diag(self.confusion)
        total = self.confusion.sum(0) + self.confusion.sum(1) - hit
        return np.where(self.confusion.sum(1) > 0, hit / np.maximum(total, 1), np.nan)

    def summary(self) -> dict[str, float]:
        mean = {name: float(np.mean(v)) if v else float("nan") for name, v in self.vc.items()}
        return {"mIoU": float(np.nanmean(self.iou())), **mean}
