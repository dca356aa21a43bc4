"""Programs on the stand-in for NVIDIA's driver (tests/cuda_host/driver), each with a driver of its own that can fail."""
from __future__ import annotations

import os
import shutil

from conftest import BUILD

CUDA_HOST_TV3S = os.path.join(BUILD, "cuda_host_tv3s")
FRAMES = os.path.join(BUILD, "cuda_host_frames")   # prints what a decoder gives of a file
CODECS = {"h264": 4, "mjpeg": 5, "vp8": 9, "vp9": 10}


def program_with_driver(program: str, folder, without=(), **faults: int) -> str:
    """`program` in `folder`, where it finds a driver `without` some libraries and with these faults (driver.h)."""
    driver = os.path.join(folder, "driver")
    os.makedirs(driver)
    for name in ("libcuda.so.1", "libnvcuvid.so.1"):
        if name in without:
            open(os.path.join(driver, name), "w").close()   # so that none of the machine's is found either
        else:
            os.symlink(os.path.join(os.path.abspath(BUILD), "driver", name), os.path.join(driver, name))
    with open(os.path.join(driver, "faults"), "w") as f:
        f.writelines(f"{name} {number}\n" for name, number in faults.items())
    there = os.path.join(folder, os.path.basename(program))
    try:
        os.link(program, there)   # a symbolic link would be where it points
    except OSError:
        shutil.copy2(program, there)
    return there
