"""Golden tensors: what the reference computes for random weights and frames, in files that any engine can check.

    golden.make(dict(arch="mit_b2", hw=(96, 130), T=3, mode="stream", classes=19, seed=5), folder)

writes into the folder
    model.pth           the published layout (or model.safetensors; Hugging Face naming: pytorch_model.bin or
                        model.safetensors, and config.json beside it)
    frames.rgb          T packed RGB24 frames
    logits.npy          float32 (outputs, classes, h, w), on the grid (SegFormer: c1's size)
    masks.npy           uint8 (outputs, H, W)
    case.json           the case, and "convert": the options `tv3s convert` needs for it
A case (all but hw optional): arch (see tv3s.ARCHS) or dims, depths, heads, sr; classes, mode stream|clip|frame
(clip: each run of 4 frames is one clip and one output), T, seed; head tv3s|segformer; window, shift, blocks, embed,
state, conv, output direct|add|concat; naming tv3s|hf; format pth|safetensors.

    python3 reference/golden.py --list
    python3 reference/golden.py OUT [NAME ...]         named cases of CASES, all by default
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import struct
from collections import OrderedDict

import numpy as np
import torch

try:
    from . import tv3s
except ImportError:
    import tv3s

HERE = os.path.dirname(os.path.abspath(__file__))
PARITY = os.environ.get("TV3S_PARITY", os.path.join(HERE, "../tests/parity"))

CASES = {
    **{f"mit_b{i}": dict(arch=f"mit_b{i}", hw=(96, 128), T=2, classes=124) for i in range(6)},
    **{f"swin_{s}": dict(arch=f"swin_{s}", hw=(96, 128), T=2, classes=124) for s in "tsbl"},
    "add": dict(arch="mit_b0", hw=(128, 160), T=3, classes=19, output="add"),
    "concat": dict(arch="mit_b0", hw=(128, 160), T=3, classes=19, output="concat"),
    "swin_concat": dict(arch="swin_t", hw=(64, 96), T=2, classes=19, output="concat", window=8, shift=4),
    "clip": dict(arch="mit_b1", hw=(96, 96), T=8, classes=19, mode="clip"),
    "frame": dict(arch="mit_b1", hw=(96, 96), T=3, classes=19, mode="frame"),
    "window8_shift4_blocks2": dict(arch="mit_b0", hw=(160, 256), T=3, classes=15, window=8, shift=4, blocks=2),
    "window8_shift3": dict(arch="mit_b0", hw=(130, 190), T=3, classes=15, window=8, shift=3, blocks=1),
    "window10_noshift": dict(arch="mit_b0", hw=(130, 190), T=2, classes=15, window=10, shift=0, blocks=1),
    "one_window": dict(arch="mit_b0", hw=(32, 32), T=4, classes=19),
    "odd_mit": dict(arch="mit_b1", hw=(101, 179), T=2, classes=19),
    "odd_swin": dict(arch="swin_t", hw=(101, 179), T=2, classes=19),
    "odd_swin_33x47": dict(arch="swin_t", hw=(33, 47), T=2, classes=19),
    "narrow": dict(dims=(32, 64, 128, 160), depths=(1, 1, 2, 1), hw=(160, 256), T=3, classes=15, embed=64,
                   window=8, shift=4, blocks=2),
    "segformer_b0": dict(arch="mit_b0", hw=(96, 128), T=2, classes=150, head="segformer"),
    "segformer_b2": dict(arch="mit_b2", hw=(97, 131), T=1, classes=19, head="segformer", embed=768),
    "segformer_b0_hf": dict(arch="mit_b0", hw=(96, 128), T=2, classes=150, head="segformer", naming="hf"),
    "segformer_b2_hf": dict(arch="mit_b2", hw=(97, 131), T=1, classes=19, head="segformer", embed=768, naming="hf",
                            format="safetensors"),
    "safetensors": dict(arch="mit_b0", hw=(64, 96), T=2, classes=19, format="safetensors"),
}
CONFIG_KEYS = ("dims", "depths", "heads", "sr", "classes", "head", "window", "shift", "blocks", "embed", "state", "conv",
               "rank", "output", "conv_seg")


def cases_module():
    """tests/parity/cases.py: random weights and frames from a seed."""
    spec = importlib.util.spec_from_file_location("cases", os.path.join(PARITY, "cases.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------- files
DTYPES = {np.dtype("float32"): "F32", np.dtype("int64"): "I64", np.dtype("float16"): "F16", np.dtype("uint8"): "U8"}


def write_safetensors(path: str, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """8 bytes of header length, a JSON header {name: dtype, shape, data_offsets}, the data."""
    header, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    for k, a in arrays.items():
        header[k] = {"dtype": DTYPES[a.dtype], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in arrays.values():
            f.write(np.ascontiguousarray(a).tobytes())


def hf_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hugging Face's names of a SegFormer's tensors."""
    rules = [(r"backbone\.patch_embed(\d)\.proj", "patch_embeddings.{i}.proj"),
             (r"backbone\.patch_embed(\d)\.norm", "patch_embeddings.{i}.layer_norm"),
             (r"backbone\.norm(\d)", "layer_norm.{i}"),
             (r"backbone\.block(\d)", "block.{i}")]
    inner = [(".norm1.", ".layer_norm_1."), (".norm2.", ".layer_norm_2."), (".attn.q.", ".attention.self.query."),
             (".attn.sr.", ".attention.self.sr."), (".attn.norm.", ".attention.self.layer_norm."),
             (".attn.proj.", ".attention.output.dense."), (".mlp.fc1.", ".mlp.dense1."), (".mlp.fc2.", ".mlp.dense2.")]
    head = [(r"linear_c(\d)\.proj", "linear_c.{i}.proj"), (r"linear_fuse\.conv", "linear_fuse"),
            (r"linear_fuse\.bn", "batch_norm"), (r"linear_pred", "classifier")]
    out = {}
    for k, v in weights.items():
        for pattern, new in rules if k.startswith("backbone") else head:
            m = re.search(pattern, k)
            if m:
                new = new.format(i=int(m.group(1)) - 1 if m.groups() else "")
                name = "segformer.encoder." + new + k[m.end():] if k.startswith("backbone") else k.replace(m.group(0), new)
                break
        else:
            raise KeyError(k)
        for a, b in inner:
            name = name.replace(a, b)
        if ".attn.kv." in name:
            for half, part in zip(("key", "value"), np.split(v, 2)):
                out[name.replace(".attn.kv.", f".attention.self.{half}.")] = part
        else:
            out[name] = v
    return out


def write_weights(folder: str, g: tv3s.Config, weights: dict[str, np.ndarray], naming: str, kind: str) -> str:
    names = [f"class {i}" for i in range(g.classes)]
    if naming == "hf":
        weights = hf_names(weights)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump({"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer",
                       "hidden_sizes": g.dims, "depths": g.depths, "num_attention_heads": g.heads, "sr_ratios": g.sr,
                       "mlp_ratios": [g.mlp] * 4, "decoder_hidden_size": g.embed, "num_encoder_blocks": 4,
                       "id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}, f, indent=1)
    if kind == "safetensors":
        name = "model.safetensors"
        write_safetensors(os.path.join(folder, name), weights)
        return name
    state = OrderedDict((k, torch.from_numpy(np.array(v))) for k, v in weights.items())
    palette = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (g.classes, 3)).tolist()
    name = "pytorch_model.bin" if naming == "hf" else "model.pth"
    torch.save(state if naming == "hf" else {"state_dict": state, "meta": {"CLASSES": tuple(names), "PALETTE": palette}},
               os.path.join(folder, name))
    return name


# -------------------------------------------------------------------------------------------------------- cases
def make(case: dict, folder: str) -> dict:
    """Writes one case into folder (made if missing); returns what case.json holds."""
    os.makedirs(folder, exist_ok=True)
    cases = cases_module()
    naming, kind, mode = case.get("naming", "tv3s"), case.get("format", "pth"), case.get("mode", "stream")
    seed, frames_n = case.get("seed", 1), case.get("T", 4 if mode == "clip" else 2)
    more = {k: case[k] for k in CONFIG_KEYS if k in case}
    if naming == "hf":
        more = {"eps": 1e-5, "conv_seg": False, **more}
    g = tv3s.config(case.get("arch", ""), **more)
    model = tv3s.TV3S(g).eval()
    fixed = {k: v.numpy() for k, v in model.state_dict().items()}
    weights = cases.weights({k: v.shape for k, v in fixed.items()}, seed)
    weights = {k: weights.get(k, v) for k, v in fixed.items()}             # indices and counters as they are
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    rgb = cases.frames(tuple(case["hw"]), frames_n, seed)
    out = list(tv3s.run(model, rgb, mode, packed=True))
    logits, masks = np.stack([o[0] for o in out]), np.stack([o[1] for o in out])
    rgb.tofile(os.path.join(folder, "frames.rgb"))
    np.save(os.path.join(folder, "logits.npy"), logits.astype(np.float32))
    np.save(os.path.join(folder, "masks.npy"), masks)
    convert = ["--resize", "native"]
    if g.head == "tv3s":
        convert += ["--window", str(g.window), "--shift", str(g.shift)]
        convert += ["--output", "add"] if g.output == "add" else []
    about = {**case, "mode": mode, "T": frames_n, "seed": seed, "size": f"{case['hw'][1]}x{case['hw'][0]}",
             "classes": g.classes, "weights": write_weights(folder, g, weights, naming, kind),
             "frames": "frames.rgb", "outputs": len(masks), "grid": list(logits.shape[2:]), "convert": convert}
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump(about, f, indent=1)
    return about


def main() -> None:
    a = argparse.ArgumentParser(description="write golden tensors")
    a.add_argument("out", nargs="?")
    a.add_argument("names", nargs="*")
    a.add_argument("--list", action="store_true")
    args = a.parse_args()
    if args.list or not args.out:
        print("\n".join(f"{k:26s} {v}" for k, v in CASES.items()))
        return
    for i, name in enumerate(args.names or CASES):
        about = make({"seed": 200 + list(CASES).index(name), **CASES[name]}, os.path.join(args.out, name))
        print(name, about["weights"], about["outputs"], "x", about["classes"], "x", about["grid"], flush=True)


if __name__ == "__main__":
    main()
