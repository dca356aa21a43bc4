"""Everything that needs a GPU, in one run, into one JSON file.

    make gpu-bundle                                          # where there is nvcc
    python3 tests/gpu/run.py build/gpu-bundle.tar.xz --out gpu.json      # where there is a GPU

The other machine needs this checkout (models, reference/, tests/parity), the bundle, an NVIDIA driver, and a Python
with PyTorch for CUDA, whose cuBLAS is used. Each step has a time limit, the whole has one, and a step that fails does
not stop the rest; the file is written anew after each. README.md beside this says what the steps are.
"""
from __future__ import annotations

import argparse
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SIZE = "864x480"                                                           # of MiT-B1
STREET = os.path.join(ROOT, "models/street.safetensors")
F32_BAR, MASKS_BAR, ROUNDED_BAR = 1e-3, 0.9995, 1.2                       # as in tests/arithmetic.py
DRIVER = ("libcuda.so*", "libnvidia-*.so*", "libnvcuvid.so*")              # what is taken of the driver's folder
GLIBC = ("ld.so", "libc.so", "libm.so", "libmvec.so", "libdl.so", "librt.so", "libpthread.so", "libresolv.so",
         "libutil.so", "libanl.so", "libnss_")                             # of the bundle: they belong together


class Failed(Exception):
    """A step's own verdict; its result so far is kept."""

    def __init__(self, text: str, result=None):
        super().__init__(text)
        self.result = result


def loaders_folders() -> list[str]:
    """Where the machine's loader finds the driver."""
    ldconfig = shutil.which("ldconfig", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    known = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout if ldconfig else ""
    return [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f] + [
        os.path.dirname(line.split("=> ")[1]) for line in known.splitlines() if line.strip().startswith("libcuda.so.1 ")
        and "x86-64" in line]


def installed(pattern: str) -> list[str]:
    """Files of that name where loaders and Python packages keep libraries."""
    folders = loaders_folders() + [
        "/usr/local/cuda*/lib64", "/usr/local/cuda*/compat", "/usr/local/nvidia/lib*", "/usr/lib/x86_64-linux-gnu",
        "/usr/lib64", "/usr/lib/wsl/lib"]
    for name in ("nvidia", "torch"):
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            folders += [folder + "/lib", folder + "/*/lib"]
    return [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, pattern)))]


class Programs:
    """The bundle unpacked, and how to start what is in it: by its own loader, with its own libraries, and of the
    machine only driver and cuBLAS. A folder that is no bundle, a build/, runs as it is."""

    def __init__(self, bundle: str, work: str):
        self.root, self.plain = bundle, False
        if os.path.isfile(bundle):
            self.root = os.path.join(work, "bundle")
            with tarfile.open(bundle) as tar:
                tar.extractall(self.root, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        self.plain = not os.path.exists(os.path.join(self.root, "lib/ld.so"))
        self.libraries = [os.path.join(self.root, "lib")]
        self.found = {}
        driver = os.path.join(work, "driver")
        os.makedirs(driver, exist_ok=True)
        for pattern in DRIVER:                                             # the folder itself has the machine's libc
            for path in installed(pattern):
                link = os.path.join(driver, os.path.basename(path))
                if not os.path.lexists(link):
                    os.symlink(os.path.realpath(path), link)
        self.libraries.append(driver)
        for name in ("libcublasLt.so.1[0-9]", "libcudnn.so.[0-9]"):
            for path in installed(name):
                self.found.setdefault(os.path.basename(path), path)
        self.libraries += sorted({os.path.dirname(p) for p in self.found.values()})

    def by_the_machines_loader(self, program: str) -> tuple[list[str], dict] | None:
        """A command and its environment without the bundle's libc, for tools that put libraries of their own into a
        process. None where the machine's libc is too old for the program."""
        if self.plain:
            return self.command(program), {}
        rest = os.path.join(self.root, "rest")
        os.makedirs(rest, exist_ok=True)
        for name in os.listdir(self.libraries[0]):
            if not name.startswith(GLIBC) and not os.path.lexists(os.path.join(rest, name)):
                os.symlink(os.path.join(self.libraries[0], name), os.path.join(rest, name))
        command = [os.path.join(self.root, "bin", program)]
        env = {"LD_LIBRARY_PATH": ":".join([rest] + self.libraries[1:])}
        starts = subprocess.run(command + ["--version"], env={**os.environ, **env}, capture_output=True)
        return (command, env) if starts.returncode == 0 else None

    def command(self, program: str, *args) -> list[str]:
        if self.plain:
            return [os.path.join(self.root, program), *map(str, args)]
        return [os.path.join(self.root, "lib/ld.so"), "--library-path", ":".join(self.libraries),
                os.path.join(self.root, "bin", program), *map(str, args)]


class Run:
    def __init__(self, args, work: str):
        self.args, self.work = args, work
        self.programs = Programs(args.bundle, work)
        self.deadline = time.monotonic() + args.seconds
        self.limit = self.deadline
        self.models: dict[str, str] = {}
        self.all: dict = {"size": args.size, "steps": {}}
        if args.after:
            with open(args.after) as f:
                self.all["steps"] = {name: step for name, step in json.load(f)["steps"].items() if step["ok"]}
        self.save()

    def save(self) -> None:
        with open(self.args.out + ".part", "w") as f:
            json.dump(self.all, f, indent=1)
        os.replace(self.args.out + ".part", self.args.out)

    def left(self) -> float:
        return min(self.limit, self.deadline) - time.monotonic()

    def call(self, command: list[str], **more) -> subprocess.CompletedProcess:
        """Within the step's time; output as text; a failure is the last lines of it."""
        if self.left() <= 0:
            raise Failed("no time left")
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.left(), **more)
        if done.returncode != 0:
            raise Failed(f"{os.path.basename(command[0])} ended with {done.returncode}: "
                         + (done.stdout[-1500:] + done.stderr[-1500:]).strip())
        return done

    def tool(self, program: str, *args, **more) -> subprocess.CompletedProcess:
        return self.call(self.programs.command(program, *args), **more)

    def step(self, name: str, seconds: float, body, *args) -> None:
        if name in self.all["steps"] or (self.args.only and not name.startswith(tuple(self.args.only))):
            return
        entry: dict = {"ok": False}
        start = time.monotonic()
        self.limit = start + seconds
        try:
            if self.left() < 5:
                raise Failed("not begun: no time left")
            entry["result"] = body(self, *args)
            entry["ok"] = True
        except Failed as e:
            entry["error"] = str(e)
            if e.result is not None:
                entry["result"] = e.result
        except subprocess.TimeoutExpired:
            entry["error"] = f"not done within {time.monotonic() - start:.0f} s"
        except Exception:                                                  # whatever it is, the others go on
            entry["error"] = traceback.format_exc(limit=3)
        entry["seconds"] = round(time.monotonic() - start, 1)
        self.all["steps"][name] = entry
        self.save()
        print(f"{name}: {'ok' if entry['ok'] else 'FAILED: ' + entry['error'].splitlines()[-1]}, "
              f"{entry['seconds']} s", flush=True)


# ------------------------------------------------------------------------------------------------- the machine
def machine(run: Run) -> dict:
    import platform
    import torch
    out = {"python": platform.python_version(), "torch": torch.__version__, "cuda_of_torch": torch.version.cuda,
           "cpu_count": os.cpu_count(), "libraries": run.programs.found}
    if run.args.device.startswith("cuda"):
        p = torch.cuda.get_device_properties(0)
        run.all["device"] = p.name
        out.update(name=p.name, memory_bytes=p.total_memory, multiprocessors=p.multi_processor_count,
                   capability=f"{p.major}.{p.minor}")
        smi = subprocess.run(["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit,"
                              "ecc.mode.current", "--format=csv"], capture_output=True, text=True)
        out["nvidia_smi"] = smi.stdout.strip()
    else:
        run.all["device"] = run.args.device
    return out


# ------------------------------------------------------------------------------------------------------ parity
def parity_modules():
    for folder in ("tests", "tests/parity", "reference"):
        folder = os.path.join(ROOT, folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
    import cases
    import tv3s
    return cases, tv3s


def case_model(run: Run, name: str) -> str:
    """A parity case as the tool's model file, made once."""
    if name not in run.models:
        import torch
        cases, _ = parity_modules()
        case, shapes = cases.CASES[name], cases.shapes(name)
        state = {k: torch.from_numpy(v) for k, v in cases.weights(shapes, case["seed"]).items()}
        n = case["classes"]
        meta = {"CLASSES": tuple(f"thing {i}" for i in range(n)), "PALETTE": [[i, i, i] for i in range(n)]}
        path = os.path.join(run.work, name)
        torch.save({"meta": meta, "state_dict": state}, path + ".pth")
        run.tool("tv3s", "convert", path + ".pth", "-o", path + ".safetensors")
        os.remove(path + ".pth")
        run.models[name] = path + ".safetensors"
    return run.models[name]


def random_b1(run: Run) -> str:
    """MiT-B1 as the reference initialises it: what is timed."""
    if "b1" not in run.models:
        import torch
        _, tv3s = parity_modules()
        torch.manual_seed(1)
        path = os.path.join(run.work, "b1")
        state = {k: v for k, v in tv3s.TV3S(tv3s.config("mit_b1", classes=124)).state_dict().items()}
        torch.save({"meta": {}, "state_dict": state}, path + ".pth")
        run.tool("tv3s", "convert", path + ".pth", "-o", path + ".safetensors")
        os.remove(path + ".pth")
        run.models["b1"] = path + ".safetensors"
    return run.models["b1"]


def logits_of(run: Run, model: str, frames, mode: str, dtype: str, *options):
    import numpy as np
    rgb, out = os.path.join(run.work, "frames.rgb"), [os.path.join(run.work, f) for f in ("l.npy", "m.npy")]
    frames.tofile(rgb)
    run.tool("tv3s", "logits", model, "--rgb", rgb, "--size", f"{frames.shape[2]}x{frames.shape[1]}", "--mode", mode,
             "--logits", out[0], "--masks", out[1], "--device", run.args.device, "--dtype", dtype, *options)
    return np.load(out[0]), np.load(out[1])


def rms(a, b) -> float:
    return float(((a - b) ** 2).mean() ** 0.5 / b.std())


def tf32_logits(model, frames, mode: str):
    """What TF32 itself costs, as arithmetic.bf16_logits says it of bf16: the reference with the factors of its matrix
    products rounded to 10 bits of mantissa. `model` is changed."""
    import numpy as np
    import torch
    _, tv3s = parity_modules()

    def rounded(x):
        bits = x.contiguous().view(torch.int32)
        return ((bits + 0xfff + (bits >> 13 & 1)) >> 13 << 13).view(torch.float32)

    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and getattr(module, "groups", 1) == 1:
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: tuple(rounded(x) for x in args))
    return np.stack([logits for logits, _ in tv3s.run(model, frames, mode, packed=True)])


def parity(run: Run, name: str, dtype: str) -> dict:
    import numpy as np
    cases, tv3s = parity_modules()
    case, mode = cases.CASES[name], "clip" if "clip" in name else "stream"
    frames, gold = cases.frames(case["hw"], case["T"], case["seed"]), cases.golden(name)
    model = case_model(run, name)
    logits, masks = logits_of(run, model, frames, mode, dtype)
    out = {"max": float(np.abs(logits - gold["logits"]).max() / gold["logits"].std()),
           "rms": rms(logits, gold["logits"]), "equal_masks": float((masks == gold["masks"]).mean())}
    if dtype == "f32":
        ok = out["max"] <= F32_BAR and out["equal_masks"] >= MASKS_BAR
    else:
        fair = tv3s.build(cases.weights(cases.shapes(name), case["seed"]))
        rounded = tf32_logits if dtype == "tf32" else importlib.import_module("arithmetic").bf16_logits
        out["rms_of_the_rounded_reference"] = rms(rounded(fair, frames, mode), gold["logits"])
        ok = out["rms"] <= ROUNDED_BAR * out["rms_of_the_rounded_reference"]
    again, _ = logits_of(run, model, frames, mode, dtype, "--batch", 4)
    out["batch_changes_nothing"] = bool(np.array_equal(again, logits))
    if not (ok and out["batch_changes_nothing"]):
        raise Failed("over the bar", out)
    return out


def clip(run: Run, dtype: str) -> dict:
    """The bundled, trained model on noise and boxes, beside the CPU backend's fp32."""
    cases, _ = parity_modules()
    frames = cases.frames((160, 256), 16, 7)
    logits, masks = logits_of(run, STREET, frames, "stream", dtype)
    keep, run.args.device = run.args.device, "cpu"
    try:
        want, want_masks = logits_of(run, STREET, frames, "stream", "f32")
    finally:
        run.args.device = keep
    out = {"rms": rms(logits, want), "equal_masks": float((masks == want_masks).mean())}
    if out["equal_masks"] < (MASKS_BAR if dtype == "f32" else 0.99):
        raise Failed("over the bar", out)
    return out


def decoders(run: Run) -> dict:
    """The bundled clip's masks, with the video decoded on the GPU and by the CPU."""
    out, masks = {}, []
    for name, options in (("auto", ()), ("cpu", ("--decoder", "cpu"))):
        path = os.path.join(run.work, name + ".raw")
        out[name] = json.loads(run.tool("tv3s", "segment", STREET, os.path.join(ROOT, "models/street.mp4"), "-o", path,
                                        "--device", run.args.device, "--json", "--quiet", *options).stdout)
        with open(path, "rb") as f:
            masks.append(f.read())
    if masks[0] != masks[1]:
        raise Failed("the masks differ", out)
    if run.args.device.startswith("cuda") and out["auto"]["decoder"] != "nvdec":
        raise Failed("not decoded on the GPU: " + str(out["auto"]["decoder_why"]), out)
    return out


# --------------------------------------------------------------------------------------- kernels, speed, memory
def profile(run: Run, dtype: str, streams: int, *options) -> dict:
    done = run.tool("op_profile", random_b1(run), "--size", run.args.size, "--device", run.args.device, "--dtype", dtype,
                    "--streams", streams, "--json", *options)
    return json.loads(done.stdout)


def check_kernels(run: Run, dtype: str) -> dict:
    result = profile(run, dtype, 2, "--check", "--steps", "2")
    return {line["op"]: line.get("far") for line in result["ops"]}


def bench(run: Run, dtype: str, streams: int, frames: int) -> dict:
    with Memory(run) as memory:
        done = run.tool("tv3s", "bench", random_b1(run), "--size", run.args.size, "--device", run.args.device,
                        "--dtype", dtype, "--streams", streams, "--frames", frames, "--warmup", 5 if frames > 1 else 0)
    return {**json.loads(done.stdout), "device_mb": memory.most}


class Memory:
    """The device memory in use at most, by nvidia-smi, twice a second; None where there is none."""

    def __init__(self, run: Run):
        self.most, self.on = None, run.args.device.startswith("cuda") and shutil.which("nvidia-smi")
        self.over = threading.Event()

    def watch(self) -> None:
        while not self.over.wait(0.5):
            smi = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                                 capture_output=True, text=True)
            if smi.returncode == 0 and smi.stdout.split()[:1] and smi.stdout.split()[0].isdigit():
                self.most = max(self.most or 0, int(smi.stdout.split()[0]))

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        if self.on:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.on:
            self.thread.join()


def sanitizer(run: Run, check: str) -> str:
    """A short stream of the bundled model under compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or next(iter(installed("../bin/compute-sanitizer")), None)
    if not tool:
        raise Failed("this machine has no compute-sanitizer")
    cases, _ = parity_modules()
    rgb = os.path.join(run.work, "short.rgb")
    cases.frames((96, 128), 3, 9).tofile(rgb)
    command, env = run.programs.by_the_machines_loader("tv3s") or (run.programs.command("tv3s"), {})
    return run.call([tool, "--tool", check, "--error-exitcode", "9", *command, "logits", STREET, "--rgb", rgb, "--size",
                     "128x96", "--device", run.args.device, "--dtype", "bf16", "--masks",
                     os.path.join(run.work, "short.npy")], env={**os.environ, **env}).stdout[-300:]


def reference(run: Run, streams: int, *options) -> dict:
    done = run.call([sys.executable, os.path.join(ROOT, "reference/bench.py"), "--arch", "mit_b1", "--size", run.args.size,
                     "--device", run.args.device.split(":")[0], "--streams", str(streams), *options])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("bundle", help="gpu-bundle.tar.xz, or a build folder of this machine")
    a.add_argument("--out", default="gpu.json")
    a.add_argument("--device", default="cuda")
    a.add_argument("--size", default=SIZE, help="frames of MiT-B1 in all but parity")
    a.add_argument("--seconds", type=float, default=570, help="for everything")
    a.add_argument("--only", nargs="*", help="steps whose name begins so")
    a.add_argument("--after", help="the --out of an earlier run on the same card: what was ok in it is kept, not repeated")
    args = a.parse_args()
    with tempfile.TemporaryDirectory(prefix="tv3s-gpu-") as work:
        run = Run(args, work)
        run.step("machine", 60, machine)
        cases = list(parity_modules()[0].CASES)
        for dtype in ("f32", "bf16"):                                      # is it right?
            for name in cases:
                run.step(f"parity {name} {dtype}", 60, parity, name, dtype)
            run.step(f"parity street {dtype}", 30, clip, dtype)
            run.step(f"kernels {dtype}", 60, check_kernels, dtype)
        for streams in (1, 64):                                            # how fast, and where does the time go?
            run.step(f"bench bf16 {streams}", 30, bench, "bf16", streams, max(16, 128 // streams))
            run.step(f"profile bf16 {streams}", 40, profile, "bf16", streams)
        run.step("decoders", 60, decoders)
        run.step("reference eager", 90, reference, 1, "--dtype", "bf16")
        run.step("sanitizer memcheck", 90, sanitizer, "memcheck")
        run.step("states 1000", 60, bench, "bf16", 1000, 1)
        for at_a_time in (1, 2, 4, 8):                                     # README.md's "to measure first"
            run.step(f"encode {at_a_time}", 30, profile, "bf16", 64, "--encode", at_a_time)
        for at_a_time in (4, 8, 16, 32):
            run.step(f"scan {at_a_time}", 30, profile, "bf16", 64, "--scan", at_a_time)
        for streams in (4, 16, 2, 8, 32):
            run.step(f"bench bf16 {streams}", 30, bench, "bf16", streams, max(16, 128 // streams))
        for name in cases:
            run.step(f"parity {name} tf32", 60, parity, name, "tf32")
        run.step("parity street tf32", 30, clip, "tf32")
        run.step("reference compile", 150, reference, 1, "--dtype", "bf16", "--compile")
        run.step("reference eager 16", 60, reference, 16, "--dtype", "bf16")
        for dtype in ("tf32", "f32"):
            for streams in (1, 64):
                run.step(f"bench {dtype} {streams}", 30, bench, dtype, streams, max(8, 64 // streams))
        run.step("profile f32 16", 40, profile, "f32", 16)
        run.step("sanitizer racecheck", 120, sanitizer, "racecheck")
        failed = [name for name, entry in run.all["steps"].items() if not entry["ok"]]
        print(f"{len(run.all['steps']) - len(failed)} steps ok, failed: {', '.join(failed) or 'none'}; {args.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
