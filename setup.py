"""Builds the native module with CMake; all else about the package, but the licence, stands in pyproject.toml.

Needs only setuptools, pybind11, cmake and (if it is there) ninja, so that it also builds without a network:
``pip install --no-build-isolation --no-index .``. Options for CMake go through the environment, for example
``BAVT_CMAKE_ARGS="-DBAVT_NATIVE=ON" pip install .``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_tool(name: str) -> str | None:
    """Path of a program on PATH or else beside this interpreter, whose folder is not on PATH in an inactive venv."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


class CMakeBuild(build_ext):  # type: ignore[misc]
    """Configures, builds and installs the CMake project instead of compiling an extension."""

    def build_extension(self, ext: Extension) -> None:
        cmake = find_tool("cmake")
        if cmake is None:
            raise RuntimeError("cmake: not found on PATH or beside this Python; install it with: pip install cmake")
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        # The cache names tools of an isolated build environment that is gone by the next build, and would keep
        # options that were passed only once. Objects that are up to date are kept.
        (build_dir / "CMakeCache.txt").unlink(missing_ok=True)
        config = "Debug" if self.debug else "Release"
        # bavt_fast/_core.*.so goes to the source tree in an editable install, else to the folder the wheel is made of.
        prefix = Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        subprocess.run([cmake, "-S", ROOT, "-B", build_dir, *self.configure_args(config)], check=True)
        subprocess.run([cmake, "--build", build_dir, "--config", config, *self.parallel_args()], check=True)
        subprocess.run([cmake, "--install", build_dir, "--config", config, "--prefix", prefix], check=True)

    def configure_args(self, config: str) -> list[str]:
        """Arguments that tie the build to this interpreter, then the user's own, which therefore win."""
        args = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_BUILD_TYPE={config}",
        ]
        ninja = find_tool("ninja")
        if ninja is not None and "CMAKE_GENERATOR" not in os.environ:
            args += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        return args + shlex.split(os.environ.get("BAVT_CMAKE_ARGS", ""))

    def parallel_args(self) -> list[str]:
        if self.parallel:
            return ["--parallel", str(self.parallel)]
        return [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel"]


setup(
    license="Apache-2.0",
    ext_modules=[Extension("bavt_fast._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
