"""`tv3s convert` and `tv3s info`: every kind of checkpoint in, one kind of model file out, and one clear line for
whatever is broken or hostile. A failed conversion leaves no file behind, not even a temporary one."""
from __future__ import annotations

import concurrent.futures
import collections
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from conftest import CLASSES, PALETTE, TV3S, tiny_shapes
import cases

ENV = {**os.environ, "GOMP_SPINCOUNT": "1000"}                            # or tv3s starts itself twice
SMALL = tiny_shapes(dims=(8, 16, 24, 32), embed=16, layers=2, classes=5)
AUXILIARY = ("linear_pred.weight", "linear_pred.bias", "conv_seg.weight", "conv_seg.bias", "num_batches_tracked")


def tv3s(*args, **more) -> subprocess.CompletedProcess:
    return subprocess.run([TV3S, *map(str, args)], capture_output=True, text=True, timeout=300, env=ENV, **more)


def convert(path, *args) -> str:
    """Converts beside the checkpoint; the model file's path."""
    out = str(path) + ".model"
    done = tv3s("convert", path, "-o", out, *args)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return out


def refused(path, text: str, *args, status: int = 1, **more) -> None:
    """One line on stderr that holds `text`, and nothing new in the folder."""
    folder = os.path.dirname(path)
    before = sorted(os.listdir(folder))
    done = tv3s("convert", path, "-o", str(path) + ".model", *args, **more)
    assert done.returncode == status, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("tv3s convert: ") and text in done.stderr, done
    assert sorted(os.listdir(folder)) == before and not done.stdout


def read(path) -> tuple[dict, dict, dict]:
    """metadata, {name: dtype}, {name: array of float32 or of raw 16-bit values}."""
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    meta, types, arrays = header.pop("__metadata__", {}), {}, {}
    for name, t in header.items():
        a, e = t["data_offsets"]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[t["dtype"]]
        types[name] = t["dtype"]
        arrays[name] = np.frombuffer(raw[8 + n + a:8 + n + e], kind).reshape(t["shape"])
    return meta, types, arrays


def write_safetensors(path, tensors: dict, metadata: dict | None = None) -> str:
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, a in tensors.items():
        kind = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}[str(a.dtype)]
        header[name] = {"dtype": kind, "shape": a.shape, "data_offsets": [len(data), len(data) + a.nbytes]}
        data += np.ascontiguousarray(a).tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return str(path)


def state(shapes: dict = SMALL, seed: int = 5) -> dict:
    return collections.OrderedDict((k, torch.from_numpy(v)) for k, v in cases.weights(shapes, seed).items())


def save(path, weights: dict, meta: dict | None = None, **more) -> str:
    torch.save({"meta": meta or {}, "state_dict": weights, **more}, path)
    return str(path)


def archive(path, pickled: bytes, storages: dict | None = None, byteorder: bytes = b"little") -> str:
    """A torch.save archive by hand."""
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", pickled)
        z.writestr("archive/byteorder", byteorder)
        for key, data in (storages or {}).items():
            z.writestr(f"archive/data/{key}", data)
    return str(path)


def same_weights(model, weights: dict) -> None:
    arrays = read(model)[2]
    wanted = {k: v for k, v in weights.items() if not k.endswith(AUXILIARY) and "position_index" not in k}
    assert set(arrays) == set(wanted)
    for name, array in arrays.items():
        assert np.array_equal(array, wanted[name].numpy()), name


# ------------------------------------------------------------------------------------------ what is accepted
@pytest.mark.parametrize("name", cases.CASES)
def test_published_layout(name, tmp_path):
    case, shapes = cases.CASES[name], cases.shapes(name)
    weights = state(shapes, case["seed"])
    for k in shapes:
        if k.endswith("num_batches_tracked"):
            weights[k] = torch.tensor(7)
        if k.endswith("relative_position_index"):
            y, x = [t.flatten() for t in torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")]
            weights[k] = (y[:, None] - y + 6) * 13 + (x[:, None] - x + 6)
    weights._metadata = collections.OrderedDict([("", {"version": 1})])
    names = [f"thing {i}" for i in range(case["classes"])]
    palette = np.arange(3 * case["classes"]).reshape(-1, 3) % 256
    meta = {"CLASSES": tuple(names), "PALETTE": palette, "mmseg_version": "0.11", "mIoU": np.float64(0.5)}
    path = save(tmp_path / "model.pth", weights, meta, optimizer={"state": {0: {"step": 3, "m": torch.zeros(2)}}})
    model = convert(path)
    same_weights(model, weights)
    about = json.loads(tv3s("info", model).stdout)
    floats = [v.numel() for k, v in weights.items() if v.is_floating_point() and "running" not in k]
    assert about["model"] == "model" and about["architecture"]["name"] == case["arch"]
    assert about["parameters"] == sum(floats)
    assert about["class_names"] == names and about["palette"] == palette.tolist()
    a = about["architecture"]
    assert (a["window"], a["shift"], a["output"], a["layers"], a["state"]) == (20, 10, "direct", 8, 16)
    assert a["resize"] == ("vspw" if case["classes"] == 124 else "cityscapes")
    if case["classes"] == 124:
        assert about["state_bytes_per_stream"] == 184 * 512 * 19 * 4
        assert about["frame"]["network_input"] == [864, 480] and about["frame"]["grid"] == [120, 60]


@pytest.mark.parametrize("wrap", [
    lambda w: w,
    lambda w: {"model": w, "epoch": 3, "lr": 1e-3, "best": None, "done": True},
    lambda w: {"model_state_dict": w},
    lambda w: {"state_dict": {"module." + k: v for k, v in w.items()}},
    lambda w: {"state_dict": {"_orig_mod.module." + k: torch.nn.Parameter(v) for k, v in w.items()}},
    lambda w: {"state_dict": {**w, "backbone.head.weight": torch.zeros(9, 9), "loss.weight": torch.zeros(4),
                              "decode_head.conv_seg.weight": torch.zeros(5, 128, 1, 1)}},
])
def test_wrappings_of_a_state_dict(wrap, tmp_path):
    weights = state()
    torch.save(wrap(weights), tmp_path / "a.pth")
    same_weights(convert(tmp_path / "a.pth"), weights)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickle_protocols(protocol, tmp_path):
    weights = state()
    torch.save({"state_dict": weights, "meta": {"raw": b"\x00\xff"}}, tmp_path / "a.pth", pickle_protocol=protocol)
    same_weights(convert(tmp_path / "a.pth"), weights)


def test_safetensors_with_canonical_names(tmp_path):
    weights = state()
    path = write_safetensors(tmp_path / "a.safetensors", {k: v.numpy() for k, v in weights.items()}, {"format": "pt"})
    same_weights(convert(path), weights)


@pytest.mark.parametrize("kind, stored", [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F32")])
def test_element_types(kind, stored, tmp_path):
    weights = {k: v.to(kind) for k, v in state().items()}
    model = convert(save(tmp_path / "a.pth", weights))
    _, types, arrays = read(model)
    assert set(types.values()) == {stored}
    for name, array in arrays.items():
        wanted = weights[name]
        if kind == torch.bfloat16:
            wanted = wanted.view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(array, np.asarray(wanted).astype(array.dtype)), name
    assert json.loads(tv3s("info", model).stdout)["dtype"] == stored


def test_views_and_strides(tmp_path):
    weights = state()
    stored = dict(weights)
    for name, v in weights.items():
        if v.ndim == 4:
            stored[name] = v.contiguous(memory_format=torch.channels_last)
        elif v.ndim == 2:
            stored[name] = v.t().contiguous().t()
    both = torch.cat([weights["backbone.norm4.weight"], weights["backbone.norm4.bias"]])
    stored["backbone.norm4.weight"], stored["backbone.norm4.bias"] = both.chunk(2)
    assert not all(v.is_contiguous() for v in stored.values())
    same_weights(convert(save(tmp_path / "a.pth", stored)), weights)


def test_compressed_archives(tmp_path):
    weights = state()
    plain = save(tmp_path / "a.pth", weights)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    same_weights(convert(tmp_path / "b.pth"), weights)


# ------------------------------------------------------------------------------------------------- SegFormer
def segformer() -> dict:
    weights = state()
    return collections.OrderedDict((k, v) for k, v in weights.items() if ".vs." not in k and "linear_pred2" not in k)


def hugging_face(weights: dict) -> dict:
    """The published naming to the other one, by MODEL.md section 4, read from right to left."""
    out = {}
    for name, v in weights.items():
        *path, leaf = name.split(".")
        p = ".".join(path)
        if p.startswith("backbone.patch_embed"):
            i, what = int(path[1][11:]) - 1, {"proj": "proj", "norm": "layer_norm"}[path[2]]
            out[f"segformer.encoder.patch_embeddings.{i}.{what}.{leaf}"] = v
        elif p.startswith("backbone.norm"):
            out[f"segformer.encoder.layer_norm.{int(path[1][4:]) - 1}.{leaf}"] = v
        elif p.startswith("backbone.block"):
            block = f"segformer.encoder.block.{int(path[1][5:]) - 1}.{path[2]}."
            rest = ".".join(path[3:])
            if rest == "attn.kv":
                key, value = v.chunk(2)
                out[f"{block}attention.self.key.{leaf}"] = key.clone()
                out[f"{block}attention.self.value.{leaf}"] = value.clone()
                continue
            rest = {"norm1": "layer_norm_1", "norm2": "layer_norm_2", "attn.q": "attention.self.query",
                    "attn.sr": "attention.self.sr", "attn.norm": "attention.self.layer_norm",
                    "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.dense1",
                    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv", "mlp.fc2": "mlp.dense2"}[rest]
            out[f"{block}{rest}.{leaf}"] = v
        elif path[1].startswith("linear_c"):
            out[f"decode_head.linear_c.{int(path[1][8:]) - 1}.proj.{leaf}"] = v
        else:
            p = {"decode_head.linear_fuse.conv": "decode_head.linear_fuse",
                 "decode_head.linear_fuse.bn": "decode_head.batch_norm",
                 "decode_head.linear_pred": "decode_head.classifier"}[p]
            out[f"{p}.{leaf}"] = v
    return out


def test_both_segformer_namings_give_one_model(tmp_path):
    weights = segformer()
    published = convert(save(tmp_path / "a.pth", weights))
    torch.save(hugging_face(weights), tmp_path / "pytorch_model.bin")
    other = convert(tmp_path / "pytorch_model.bin")
    meta, _, arrays = read(published)
    assert np.array_equal(arrays["decode_head.linear_pred.weight"], weights["decode_head.linear_pred.weight"])
    assert json.loads(meta["arch"])["head"] == "segformer" and "window" not in json.loads(meta["arch"])
    one, two = open(published, "rb").read(), open(other, "rb").read()
    assert json.loads(read(other)[0]["arch"])["eps_block"] == 1e-5
    assert json.loads(meta["arch"])["eps_block"] == 1e-6
    for name, array in read(other)[2].items():
        assert np.array_equal(array, arrays[name]), name
    data = sum(a.nbytes for a in arrays.values())
    assert one[-data:] == two[-data:]
    assert one[:-data].rstrip() == two[:-data].rstrip().replace(rb'"eps_block\":1e-5', rb'"eps_block\":1e-6')


def test_class_names_of_config_json(tmp_path):
    weights = {k: v.numpy() for k, v in hugging_face(segformer()).items()}
    path = write_safetensors(tmp_path / "model.safetensors", weights)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): c for i, c in enumerate(CLASSES)}}))
    assert json.loads(read(convert(path))[0]["classes"]) == CLASSES
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "one"}}))
    done = tv3s("convert", path, "-o", tmp_path / "b.model")
    assert done.returncode == 0 and "config.json" in done.stderr and done.stderr.count("\n") == 1
    assert json.loads(read(tmp_path / "b.model")[0]["classes"])[1] == "class 1"


def test_half_of_a_pair(tmp_path):
    weights = hugging_face(segformer())
    del weights["segformer.encoder.block.1.0.attention.self.value.weight"]
    torch.save(weights, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "backbone.block2.0.attn.kv.weight has only one of its halves")


def test_halves_that_differ(tmp_path):
    weights = hugging_face(segformer())
    weights["segformer.encoder.block.1.0.attention.self.value.bias"] = torch.zeros(17)
    torch.save(weights, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "do not go together")


# --------------------------------------------------------------------------------------------------- options
def test_options_and_converting_again(tmp_path):
    meta = {"CLASSES": CLASSES, "PALETTE": PALETTE}
    first = convert(save(tmp_path / "a.pth", state(), meta), "--window", "8", "--resize", "640x352")
    about = json.loads(read(first)[0]["arch"])
    assert (about["window"], about["shift"], about["resize"], about["output"]) == (8, 4, "640x352", "direct")
    second = convert(first, "--shift", "3", "--output", "add", "--resize", "native")
    meta2, _, arrays = read(second)
    about = json.loads(meta2["arch"])
    assert (about["window"], about["shift"], about["resize"], about["output"]) == (8, 3, "native", "add")
    assert json.loads(meta2["classes"]) == CLASSES and json.loads(meta2["palette"]) == PALETTE
    assert meta2["parameters"] == read(first)[0]["parameters"]
    for name, array in read(first)[2].items():
        assert np.array_equal(array, arrays[name])
    third = convert(second, "--window", "8", "--shift", "4", "--output", "direct", "--resize", "640x352")
    assert open(third, "rb").read() == open(first, "rb").read()


def test_options_that_make_no_sense(tmp_path):
    path = save(tmp_path / "a.pth", state())
    refused(path, "shift is 20, not 0 to 19", "--shift", "20")
    for bad in (["--window", "0"], ["--window", "65"], ["--window", "x"], ["--shift", "-1"], ["--resize", "8x8"],
                ["--resize", "large"], ["--output", "concat"], ["--frobnicate"], [path]):
        done = tv3s("convert", path, *bad)
        assert done.returncode == 2 and done.stderr.startswith("tv3s convert: ") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.pth"]
    refused(save(tmp_path / "s.pth", segformer()), "SegFormer", "--window", "20")


def test_concat_is_told_by_the_classifier(tmp_path):
    weights = state()
    weights["decode_head.linear_pred2.weight"] = torch.zeros(5, 32, 1, 1)
    path = save(tmp_path / "a.pth", weights)
    assert json.loads(read(convert(path))[0]["arch"])["output"] == "concat"
    os.remove(path + ".model")
    refused(path, "concat", "--output", "direct")


def test_default_output_name_and_what_no_shape_tells(tmp_path):
    path = save(tmp_path / "a.b.pth", state())
    done = tv3s("convert", path)
    assert done.returncode == 0 and done.stdout.endswith("windows of 20 shifted by 10, resize native\n"), done.stdout
    assert sorted(os.listdir(tmp_path)) == ["a.b.pth", "a.b.safetensors"]
    before = open(tmp_path / "a.b.safetensors", "rb").read()
    for more in ([], ["-o", "a.b.safetensors"], ["-o", "../" + tmp_path.name + "/a.b.safetensors"]):
        done = tv3s("convert", "a.b.safetensors", *more, cwd=tmp_path)
        assert done.returncode == 1 and "would be overwritten" in done.stderr
    assert open(tmp_path / "a.b.safetensors", "rb").read() == before


# ----------------------------------------------------------------------------------------- what does not fit
def spoil(name, change):
    weights = state()
    changed = change(weights.pop(name))
    if changed is not None:
        weights[name] = changed
    return weights


@pytest.mark.parametrize("name, change, text", [
    ("backbone.block2.0.norm1.weight", lambda t: None, "tensor backbone.block2.0.norm1.weight [16] is missing"),
    ("backbone.block2.0.norm1.weight", lambda t: t[:-1], "norm1.weight has shape [15], not [16]"),
    ("backbone.block2.0.norm1.weight", lambda t: t[None], "norm1.weight has shape [1, 16], not [16]"),
    ("backbone.block2.0.norm1.weight", lambda t: t.long(), "norm1.weight [16] is I64, not a float type"),
    ("backbone.block2.0.norm1.weight", lambda t: t[:0], "norm1.weight has shape [0], not [16]"),
    ("backbone.norm1.bias", lambda t: t * float("nan"), "tensor backbone.norm1.bias: value 0 is NaN or infinite"),
    ("backbone.norm1.bias", lambda t: t.double() + 1e300, "tensor backbone.norm1.bias: value 0 is NaN or infinite"),
    ("backbone.norm1.bias", lambda t: t.half() + 1e6, "tensor backbone.norm1.bias: value 0 is NaN or infinite"),
    ("decode_head.linear_fuse.bn.running_var", lambda t: -t, "is a negative variance"),
    ("decode_head.linear_c1.proj.weight", lambda t: None, "tensor decode_head.linear_c1.proj.weight is missing"),
    ("backbone.patch_embed1.proj.weight", lambda t: t[:, :, 0], "patch_embed1.proj.weight has shape [8, 3, 7]"),
    ("decode_head.linear_pred2.weight", lambda t: t.expand(300, -1, -1, -1)[:256] if len(t) == 1 else
     torch.zeros(256, 16, 1, 1), "classes is 256, not 1 to 255"),
])
def test_a_tensor_that_does_not_fit(name, change, text, tmp_path):
    refused(save(tmp_path / "a.pth", spoil(name, change)), text)


def test_a_tensor_that_no_architecture_has(tmp_path):
    weights = {**state(), "decode_head.gate.weight": torch.zeros(16)}
    refused(save(tmp_path / "a.pth", weights), "decode_head.gate.weight [16] is in no architecture we know")


def test_two_tensors_of_one_name(tmp_path):
    weights = {**state(), "module.backbone.norm1.weight": torch.zeros(8)}
    refused(save(tmp_path / "a.pth", weights), "two tensors are named 'backbone.norm1.weight'")


def test_a_backbone_alone(tmp_path):
    weights = {k: v for k, v in state().items() if k.startswith("backbone.")}
    refused(save(tmp_path / "a.pth", weights), "decode_head.linear_c1.proj.weight is missing")
    refused(save(tmp_path / "b.pth", {"head.weight": torch.zeros(3)}),
            "b.pth: no tensor is one of TV3S or SegFormer; there is head.weight")
    torch.save({"lr": 1}, tmp_path / "c.pth")
    refused(tmp_path / "c.pth", "no state_dict")
    torch.save([1, 2], tmp_path / "d.pth")
    refused(tmp_path / "d.pth", "no state_dict")


def test_another_order_of_swin_positions(tmp_path):
    shapes = cases.shapes("swin_t_stream")
    weights = {k: torch.zeros(v) for k, v in shapes.items() if "position_index" not in k and "num_batches" not in k}
    weights["backbone.layers.2.blocks.3.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    refused(save(tmp_path / "a.pth", weights), "blocks.3.attn.relative_position_index is not Swin's order of positions")


# ------------------------------------------------------------------------------------------ hostile archives
class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("thing, name", [
    (Call(os.system, "touch owned"), "posix.system"),
    (Call(eval, "1"), "builtins.eval"),
    (Call(open, "owned", "w"), "io.open"),
    (Call(subprocess.Popen, ["touch", "owned"]), "subprocess.Popen"),
])
def test_a_pickle_that_calls(thing, name, tmp_path):
    for protocol in (2, 4):
        path = archive(tmp_path / "a.pth", pickle.dumps({"state_dict": {"x": thing}}, protocol, fix_imports=False))
        refused(path, f"{path} holds more than tensors: torch.save its state_dict alone: pickle wants to call {name}",
                cwd=tmp_path)
        os.remove(path)


def test_a_pickle_that_imports_by_name(tmp_path):
    refused(archive(tmp_path / "a.pth", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."),
            "pickle wants to call os.system")
    refused(archive(tmp_path / "b.pth", b"\x80\x02cos\x1b[31m\nsys\ttem\n."), "pickle wants to call os?[31m.sys?tem")


def test_a_storage_that_is_not_as_long_as_it_says(tmp_path):
    path = save(tmp_path / "a.pth", state())
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:8 if "/data/" in name else None])
    refused(tmp_path / "b.pth", "bytes, not")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "c.pth", "w") as new:
        for name in old.namelist():
            if not name.endswith("/data/3"):
                new.writestr(name, old.read(name))
    refused(tmp_path / "c.pth", "the archive has no 'a/data/3'")


def test_tensors_scattered_over_a_storage(tmp_path):
    weights = state()
    weights["backbone.norm1.weight"] = torch.ones(8 * 64)[::64]
    refused(save(tmp_path / "a.pth", weights), "tensor backbone.norm1.weight: a tensor is scattered")


def test_archives_of_other_kinds(tmp_path):
    refused(archive(tmp_path / "big.pth", b"\x80\x02}.", byteorder=b"big"), "big-endian")
    torch.save(state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", "save it again with torch.save")
    with tarfile.open(tmp_path / "tar.pth", "w") as tar:
        tar.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    refused(tmp_path / "tar.pth", "save it again with torch.save")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as z:
        z.writestr("readme", "nothing")
    refused(tmp_path / "zip.pth", "no data.pkl")
    (tmp_path / "text.pth").write_text("hello, world, this is text")
    refused(tmp_path / "text.pth", "neither a checkpoint")
    (tmp_path / "empty.pth").write_text("")
    refused(tmp_path / "empty.pth", "neither a checkpoint")
    refused(tmp_path / "no\nsuch.pth", "such.pth")
    os.mkdir(tmp_path / "folder.pth")
    refused(tmp_path / "folder.pth", "folder.pth")


# --------------------------------------------------------------------------------------- hostile safetensors
def test_headers_that_claim_too_much(tmp_path):
    path = tmp_path / "a.safetensors"
    for n, text in ((1 << 40, "not a safetensors file"), ((1 << 64) - 1, "not a safetensors file"),
                    (100, "cut off: a header of 100 bytes")):
        path.write_bytes(struct.pack("<Q", n) + b"{}")
        refused(path, text)
    header = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(path, "tensor 'a' lies at bytes 0 to 4398046511104 of 0 bytes")


def test_offsets_that_overlap(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {k: v.numpy() for k, v in state().items()})
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    one, two = list(header)[:2]
    header[two]["data_offsets"] = header[one]["data_offsets"]
    header[two]["shape"] = header[one]["shape"]
    text = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + raw[8 + n:])
    refused(path, "overlap")


def test_metadata_that_contradicts_the_tensors(tmp_path):
    model = convert(save(tmp_path / "a.pth", state()))
    raw = open(model, "rb").read()
    for old, new, text in ((rb'\"embed\":16', rb'\"embed\":17', "linear_c1.proj.weight has shape [16, 8], not [17, 8]"),
                           (rb'\"layers\":2', rb'\"layers\":4', "decode_head.vs.layers.2.norm.weight [16] is missing"),
                           (rb'\"layers\":2', rb'\"layers\":3', "3 layers"),
                           (rb'\"head\":\"tv3s\"', rb'\"head\":\"tv4s\"', "'head' is missing or unknown")):
        assert old in raw
        (tmp_path / "bad.model").write_bytes(raw.replace(old, new))
        refused(tmp_path / "bad.model", text)
        done = tv3s("info", tmp_path / "bad.model")
        assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1


def test_info_of_a_checkpoint_hints_at_convert(tmp_path):
    path = save(tmp_path / "a.pth", state())
    plain = write_safetensors(tmp_path / "a.safetensors", {"x": np.zeros(3, np.float32)})
    for file in (path, plain):
        done = tv3s("info", file)
        assert done.returncode == 1 and "tv3s convert" in done.stderr and done.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------- broken at random
def attempt(folder, number: int, raw: bytes) -> int:
    path, out = folder / f"{number}.pth", folder / f"{number}.out"
    path.write_bytes(raw)
    done = tv3s("convert", path, "-o", out)
    assert done.returncode in (0, 1), (number, done)
    assert done.stderr.count("\n") == done.returncode, (number, done)
    assert out.exists() == (done.returncode == 0), (number, done)
    if out.exists():
        out.unlink()
    path.unlink()
    assert not list(folder.glob(f".{number}.*")), number
    return done.returncode


def attempt_all(folder, raws) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda job: attempt(folder, *job), enumerate(raws)))


def flipped(raw: bytes, at: int, bit: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1:]


def test_200_flipped_bits(tmp_path):
    raw = open(save(tmp_path / "a.pth", state()), "rb").read()
    rng = random.Random(1)
    places = [rng.randrange(len(raw)) for _ in range(70)]                  # mostly values
    places += [rng.randrange(20000) for _ in range(70)]                    # the pickle
    places += [len(raw) - 1 - rng.randrange(9000) for _ in range(60)]      # the directory of the archive
    attempt_all(tmp_path, (flipped(raw, at, rng.randrange(8)) for at in places))


def test_50_truncations(tmp_path):
    raw = open(save(tmp_path / "a.pth", state()), "rb").read()
    rng = random.Random(2)
    cuts = [0, 1, 4, 8, 30, len(raw) - 1, len(raw) - 22] + [rng.randrange(len(raw)) for _ in range(43)]
    assert set(attempt_all(tmp_path, (raw[:n] for n in cuts))) == {1}


def test_flipped_and_cut_safetensors(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {k: v.numpy() for k, v in state().items()})
    raw = open(path, "rb").read()
    rng = random.Random(3)
    flips = [flipped(raw, rng.randrange(9000), rng.randrange(8)) for _ in range(60)]
    attempt_all(tmp_path, flips + [raw[:rng.randrange(len(raw))] for _ in range(20)])


# -------------------------------------------------------------------------------------------------- writing
def test_a_full_disk_leaves_nothing(tmp_path):
    path = save(tmp_path / "a.pth", state())
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))     # noqa: E731
    refused(path, "File too large", preexec_fn=limit)
    done = tv3s("convert", path, "-o", "/dev/full")
    assert done.returncode == 1 and "No space left" in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_keeps_what_was_there(tmp_path):
    path = save(tmp_path / "a.pth", state())
    (tmp_path / "a.pth.model").write_text("precious")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))     # noqa: E731
    refused(path, "File too large", preexec_fn=limit)
    assert (tmp_path / "a.pth.model").read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path):
    path = save(tmp_path / "a.pth", state())
    for out in ("nowhere/a.model", "a.pth/a.model", "."):
        done = tv3s("convert", path, "-o", out, cwd=tmp_path)
        assert done.returncode == 1 and done.stderr.startswith("tv3s convert: ") and done.stderr.count("\n") == 1
    if os.geteuid() != 0:                                                  # root may write anywhere
        os.chmod(tmp_path, 0o500)
        refused(path, "Permission denied")
        os.chmod(tmp_path, 0o700)
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_model_is_readable_by_others(tmp_path):
    model = convert(save(tmp_path / "a.pth", state()))
    mask = os.umask(0)
    os.umask(mask)
    assert os.stat(model).st_mode & 0o777 == 0o666 & ~mask
    shutil.copy(model, tmp_path / "copy")
    assert json.loads(tv3s("info", tmp_path / "copy", "--size", "320x200").stdout)["frame"]["size"] == [320, 200]
