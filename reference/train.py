"""Training as in the paper's section 3.3, on synth.py, on a few CPU cores.

Stage a trains encoder, fuse and the auxiliary per-frame classifier on single frames. Stage b trains everything
on clips at t-9, t-6, t-3, t with Eq. 3: lambda * sum over frames CE(auxiliary) + CE(output of frame t); AdamW,
"poly" schedule. Departures, each an option: runs of consecutive frames beside the paper's clips (a stream goes on
for ever, and `--clip run:12` shows the model more than four steps of its state), a loss on every frame of a clip
(`--loss all`), cross-entropy weighted by class frequency^-balance, a schedule in minutes.

What makes it quick: scan.c; labels compared at half size (a random quarter of the pixels each step); several
processes of one thread each that share the weights and update them without locks, because one step is too
small for threads to share; one arena for all allocations (page faults cost more than arithmetic otherwise).

    python3 reference/train.py a --minutes 35 --out /tmp/train
    python3 reference/train.py b --minutes 40 --out /tmp/train --init /tmp/train/a.pth
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections import OrderedDict

ARENA = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0",
         "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456",
         "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
if __name__ == "__main__" and os.environ.get("OMP_NUM_THREADS") != "1":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ARENA})

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

import fastscan
import synth
import tv3s
from metrics import Score

MODEL = dict(dims=(32, 64, 128, 160), depths=(1, 1, 2, 1), embed=64, window=8, shift=4, blocks=2,
             classes=len(synth.CLASSES), conv_seg=False)
SHARE = np.array([.183, .042, .173, .159, .194, .058, .015, .010, .055, .025, .046, .0084, .0126, .0113, .0062])
FIRST_TRAINING_SEED = 1_000_000                                            # everything below is held out
LAMBDA = 0.5


# --------------------------------------------------------------------------------------------------------- data
class Feed:
    """Batches of clips from a pool of scenes; one scene is replaced at every second step."""

    def __init__(self, seed: int, pool: int = 24):
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.pool = [self.scene() for _ in range(pool)]

    def scene(self) -> synth.Scene:
        return synth.Scene(int(self.rng.integers(FIRST_TRAINING_SEED, 1 << 31)), hard=self.rng.uniform(0.6, 1.1))

    def batch(self, clips: int, offsets: list[int]) -> tuple[Tensor, Tensor]:
        """rgb (clips, T, 3, H, W) float 0..255, labels (clips, T, H, W) int64."""
        if self.rng.random() < 0.5:                                        # a new scene costs as much as 50 frames
            self.pool[self.rng.integers(len(self.pool))] = self.scene()
        rgb, lab = [], []
        for i in self.rng.integers(0, len(self.pool), clips):
            t = int(self.rng.integers(max(offsets), 4000))
            x, y = self.pool[i].clip([t - o for o in offsets])
            rgb.append(x), lab.append(y)
        return torch.from_numpy(np.stack(rgb)).permute(0, 1, 4, 2, 3).float(), torch.from_numpy(np.stack(lab)).long()


def offsets_of(text: str) -> list[int]:
    """"9,6,3,0" or "run:12" (the last 12 frames) -> how far back each frame of a clip lies."""
    return list(range(int(text[4:]) - 1, -1, -1)) if text.startswith("run:") else [int(v) for v in text.split(",")]


# --------------------------------------------------------------------------------------------------------- loss
def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, corner) -> Tensor:
    """logits (B, K, h, w) of any grid, labels (B, H, W): compared at one pixel of each 2x2."""
    hw = labels.shape[1:]
    x = tv3s.resize(tv3s.resize(logits, [-(-v // 4) for v in hw]), [v // 2 for v in hw])
    return F.cross_entropy(x, labels[:, corner[0]::2, corner[1]::2], weight)


def losses(model: tv3s.TV3S, rgb: Tensor, labels: Tensor, args, weight: Tensor, corner) -> tuple[Tensor, Tensor]:
    """(auxiliary, output) cross-entropy of a batch of clips; stage a has no second part."""
    b, t = rgb.shape[:2]
    head, flat = model.decode_head, labels.flatten(0, 1)
    with torch.set_grad_enabled(not args.freeze):
        f = model.features(rgb.flatten(0, 1))                              # (B*T, E, h1, w1)
        aux = cross_entropy(head.linear_pred(f), flat, weight, corner)
    if args.stage == "a":
        return aux, torch.zeros(())
    logits, _ = head.temporal(f, t)                                        # (B*T, K, h, w)
    if args.loss == "last":
        logits, flat = logits[t - 1::t], labels[:, -1]
    return aux, cross_entropy(logits, flat, weight, corner)


# --------------------------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(model: tv3s.TV3S, seeds=range(100, 106), frames: int = 40, start: int = 0) -> dict:
    """Scores of the auxiliary classifier, and of frame and stream mode (its first and last half too)."""
    model.eval()
    k, hw = model.g.classes, (synth.H, synth.W)
    names = ("aux", "frame", "stream", "stream_early", "stream_late")
    score = {n: Score(k) for n in names}
    for seed in seeds:
        rgb, lab = synth.Scene(seed).clip(range(start, start + frames))
        x = torch.from_numpy(rgb).permute(0, 3, 1, 2).float()
        f = torch.cat([model.features(x[i:i + 8]) for i in range(0, frames, 8)])
        out = {"aux": model.decode_head.linear_pred(f), "frame": model.decode_head.temporal(f, 1)[0],
               "stream": model.decode_head.temporal(f, frames)[0]}
        for name, logits in out.items():
            masks = np.concatenate([tv3s.upsample(q, hw).argmax(1).numpy().astype(np.uint8) for q in logits.split(8)])
            score[name].add(lab, masks)
            if name == "stream":
                score["stream_early"].add(lab[:frames // 2], masks[:frames // 2])
                score["stream_late"].add(lab[frames // 2:], masks[frames // 2:])
    result = {n: s.summary() for n, s in score.items()}
    result["iou"] = {c: round(float(v), 3) for c, v in zip(synth.CLASSES, score["stream"].iou())}
    result["iou_aux"] = {c: round(float(v), 3) for c, v in zip(synth.CLASSES, score["aux"].iou())}
    return result


def show(r: dict, stage: str) -> str:
    rows = ("aux",) if stage == "a" else ("aux", "frame", "stream", "stream_early", "stream_late")
    text = "  ".join(f"{n} {r[n]['mIoU']:.3f}/{r[n]['mVC8']:.3f}/{r[n]['mVC16']:.3f}" for n in rows)
    return text + "\n    " + " ".join(f"{c} {v}" for c, v in r["iou_aux" if stage == "a" else "iou"].items())


# ----------------------------------------------------------------------------------------------------- training
def pause_with_parent() -> None:
    """SIGSTOP to the command that was started stops its processes too (Linux)."""
    def stopped() -> bool:
        with open(f"/proc/{os.getppid()}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    while os.path.exists("/proc") and stopped():
        time.sleep(1)


def save(path: str, model: tv3s.TV3S, **more) -> None:
    """The published kind of file; what else resuming needs lies beside the state dict."""
    state = OrderedDict((k, v.detach().clone()) for k, v in model.state_dict().items())
    meta = {"CLASSES": synth.CLASSES, "PALETTE": synth.PALETTE}
    torch.save({"state_dict": state, "meta": meta, **more}, path + ".part")
    os.replace(path + ".part", path)


def rate(progress: float, steps: int, args) -> float:
    return min(1.0, (steps + 1) / args.warmup) * max(1e-4, 1 - progress) ** 0.9


def work(rank: int, model: tv3s.TV3S, args, clock, total) -> None:
    """One process; clock: seconds trained so far (a stop of the process does not count), total: steps of all."""
    torch.set_num_threads(1)
    fastscan.install()
    torch.manual_seed(args.seed + rank)
    feed = Feed(args.seed * 1000 + rank + int(float(clock)))
    weight = torch.tensor(SHARE ** -args.balance, dtype=torch.float32)
    weight /= float((weight * torch.tensor(SHARE)).sum())
    encoder = [p for n, p in model.named_parameters() if not ("vs." in n or "linear_pred2" in n)]
    temporal = [p for n, p in model.named_parameters() if "vs." in n or "linear_pred2" in n]
    groups = [dict(params=temporal, base=args.lr)] if args.stage == "b" else []
    if not args.freeze:
        groups.append(dict(params=encoder, base=args.lr * (args.encoder_lr if args.stage == "b" else 1)))
    opt = torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.decay)
    if args.state is not None:
        opt.load_state_dict(args.state)
        args.state = None
    clips = [offsets_of(c) for c in (args.clip if args.stage == "b" else ["0"])]
    path = os.path.join(args.out, f"{args.name}.pth")
    mean, last_save, last_eval, last_log = None, time.time(), time.time(), 0.0
    while float(clock) < 60 * args.minutes:
        pause_with_parent()
        begin = time.time()
        model.train(args.stage == "a")                                     # stage b: BatchNorm as it is
        progress = float(clock) / (60 * args.minutes)
        factor = rate(progress, int(total), args)
        for g in opt.param_groups:
            g["lr"] = g["base"] * factor
        offsets = clips[int(feed.rng.integers(len(clips)))]
        rgb, labels = feed.batch(max(1, args.frames // len(offsets)), offsets)
        aux, out = losses(model, rgb, labels, args, weight, feed.rng.integers(0, 2, 2))
        if args.stage == "a":
            loss = aux
        else:                                                              # Eq. 3; --loss all: over T, its first term too
            loss = out + LAMBDA * (len(offsets) if args.loss == "last" else 1) * (0 if args.freeze else aux)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], 1.0)
        opt.step()
        now = np.array([float(aux), float(out)])
        mean = now if mean is None else 0.97 * mean + 0.03 * now
        total += 1
        if rank:
            continue
        clock += min(time.time() - begin, 10.0)
        if time.time() - last_log > 20:
            last_log = time.time()
            print(f"{time.strftime('%H:%M:%S')} {args.name} {float(clock) / 60:5.1f} min  step {int(total):6d}  "
                  f"lr {args.lr * factor:.1e}  aux {mean[0]:.3f}  out {mean[1]:.3f}", flush=True)
        if time.time() - last_eval > 60 * args.eval_every:
            print(f"{time.strftime('%H:%M:%S')} eval {show(evaluate(model), args.stage)}", flush=True)
            last_eval = time.time()
        if time.time() - last_save > 120:
            save(path, model, opt=opt.state_dict(), clock=float(clock), steps=int(total))
            last_save = time.time()
    if rank == 0:
        save(path, model, opt=opt.state_dict(), clock=float(clock), steps=int(total))
        print(f"{time.strftime('%H:%M:%S')} done, {int(total)} steps: {show(evaluate(model), args.stage)}", flush=True)


def main() -> None:
    a = argparse.ArgumentParser(description="train TV3S on synthetic street video")
    a.add_argument("stage", choices=("a", "b"))
    a.add_argument("--minutes", type=float, default=35)
    a.add_argument("--out", default="/tmp/train")
    a.add_argument("--name", help="checkpoint OUT/NAME.pth (default: the stage)")
    a.add_argument("--init", help="start from the weights of this checkpoint")
    a.add_argument("--resume", action="store_true", help="go on from OUT/NAME.pth")
    a.add_argument("--procs", type=int, default=2)
    a.add_argument("--frames", type=int, default=16, help="frames in a batch")
    a.add_argument("--clip", action="append", help="9,6,3,0 or run:N; several are chosen from at random")
    a.add_argument("--loss", choices=("last", "all"), default="last")
    a.add_argument("--lr", type=float, default=1e-3)
    a.add_argument("--encoder-lr", type=float, default=0.1, help="stage b: the encoder's rate, relative")
    a.add_argument("--freeze", action="store_true", help="stage b: leave the encoder as it is")
    a.add_argument("--decay", type=float, default=0.01)
    a.add_argument("--warmup", type=int, default=200)
    a.add_argument("--balance", type=float, default=0.25)
    a.add_argument("--eval-every", type=float, default=4, help="minutes")
    a.add_argument("--seed", type=int, default=1)
    args = a.parse_args()
    args.name, args.clip, args.state = args.name or args.stage, args.clip or ["9,6,3,0"], None
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    model = tv3s.TV3S(tv3s.config("", **MODEL))
    clock, total = (torch.zeros((), dtype=torch.float64).share_memory_() for _ in range(2))
    source = os.path.join(args.out, f"{args.name}.pth") if args.resume else args.init
    if source:
        saved = torch.load(source, map_location="cpu")
        wrong = model.load_state_dict(saved["state_dict"], strict=False)
        print("from", source, "new:", len(wrong.missing_keys))
        if args.resume:
            clock.fill_(saved["clock"])
            total.fill_(saved["steps"])
            args.state = saved["opt"]
    model.share_memory()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", vars(args) | {"state": None}, flush=True)
    mp.spawn(work, (model, args, clock, total), nprocs=args.procs)


if __name__ == "__main__":
    main()
