"""The C side of the benchmarks: builds ``benchmarks/native`` and calls it through ctypes.

A ctypes call takes about a microsecond and stands for at least 10,000 simulations, so the figures are the C++ side's.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import BUILD, ROOT

_POINTER, _SIZE, _U32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
# Function: (result, arguments); those that end in _new return what _free takes.
_SIGNATURES = {
    "trees_new": (_POINTER, [_U32]),
    "trees_uct": (None, [_POINTER, _SIZE, _POINTER]),
    "trees_power": (None, [_POINTER, _SIZE, _POINTER]),
    "trees_free": (None, [_POINTER]),
    "flat_new": (_POINTER, [_U32]),
    "flat_uct": (None, [_POINTER, _SIZE, _POINTER]),
    "flat_free": (None, [_POINTER]),
    "descents_new": (_POINTER, [_SIZE, _POINTER]),
    "descents_follow": (None, [_POINTER, _U32]),
    "descents_read": (None, [_POINTER, _U32]),
    "descents_bytes": (ctypes.c_uint64, [_POINTER]),
    "descents_free": (None, [_POINTER]),
    "drawn_new": (_POINTER, [_U32, _POINTER]),
    "drawn_draw": (None, [_POINTER, _U32]),
    "drawn_free": (None, [_POINTER]),
    "waves_new": (_POINTER, [_U32, _U32]),
    "waves_uct": (None, [_POINTER, _SIZE, _POINTER, _POINTER]),
    "waves_renew": (None, [_POINTER]),
    "waves_free": (None, [_POINTER]),
    "arithmetic": (None, [_U32, ctypes.c_uint64]),
}


def build(target: str = "bavt_bench") -> Path:
    """Configure and build, quietly unless it fails; returns the library's path."""
    import pybind11

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # cmake and ninja may be pip's
    options = {
        "BAVT_BENCH": "ON",
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    configure = ["cmake", "-S", ROOT, "-B", BUILD, *(f"-D{name}={value}" for name, value in options.items())]
    for command in (configure, ["cmake", "--build", BUILD, "--target", target]):
        done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"building the benchmark library failed:\n{done.stdout}{done.stderr}")
    return BUILD / "libbavt_bench.so"


def compiler() -> str:
    """The compiler that the library was built with, and its version."""
    for line in (BUILD / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("CMAKE_CXX_COMPILER:"):
            path = line.split("=", 1)[1]
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return done.stdout.partition("\n")[0]
    return "unknown"


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Made:
    """What a ``*_new`` function of the library made, freed with this object."""

    def __init__(self, kind: str, *arguments: object) -> None:
        self._free = getattr(library(), f"{kind}_free")
        self._as_parameter_ = getattr(library(), f"{kind}_new")(*arguments)

    def __del__(self) -> None:
        self._free(self._as_parameter_)


def pointer(array: npt.NDArray[np.float64]) -> ctypes.c_void_p:
    """A C-contiguous array for the library; the pointer keeps the array alive."""
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)
