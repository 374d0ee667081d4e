"""What a user installs: an sdist with all that a build reads, a wheel that is complete, an import that is light."""

from __future__ import annotations

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "triton",
    "tokenizers",
    "safetensors",
    "typer",
    "rich",
    "matplotlib",
    "networkx",
    "pandas",
)
DIST = os.environ.get("BAVT_DIST", "")  # the folder with the sdist and the wheel of `make package`


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Runs a command and returns what it printed; a failure shows both its streams."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def python(code: str, cwd: Path = ROOT, **env: str) -> str:
    return run(sys.executable, "-c", code, cwd=cwd, **env)


def shipped_sources(folder: Path) -> set[str]:
    """Package files that a wheel must contain, relative to the folder that has the package."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / "bavt_fast").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd")
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution: that of `make package`, or one from a copy, so that the work tree stays as it is."""
    if DIST:
        (archive,) = Path(DIST).glob("*.tar.gz")
        return archive
    pytest.importorskip("pybind11", reason="building without isolation needs pybind11")
    work = tmp_path_factory.mktemp("sdist")
    anywhere = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")

    def ignored(folder: str, names: list[str]) -> set[str]:
        outputs = {"build", "dist", "runs"} if Path(folder) == ROOT else set()
        return anywhere(folder, names) | outputs

    shutil.copytree(ROOT, work / "tree", ignore=ignored)
    backend = f"import setuptools.build_meta as backend; backend.build_sdist({str(work)!r})"
    python(backend, cwd=work / "tree")
    (archive,) = work.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel that `make package` made from its sdist: to compile it once more takes a minute."""
    if not DIST:
        pytest.skip("`make package` runs this with the wheel that it makes")
    (archive,) = Path(DIST).glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but the unpacked wheel."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def metadata(installed: Path) -> email.message.Message:
    (info,) = installed.glob("*.dist-info")
    return email.parser.Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))


def test_sdist_has_all_that_a_build_reads_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "tests/test_packaging.py"}
    needed |= {"benchmarks/harness.py", "benchmarks/native/bench_library.cpp", "tools/critic_kernel/tune.py"}
    assert needed | sources | shipped_sources(ROOT) <= names
    assert not [name for name in names if re.search(r"\.(so|pyd|pyc)$|__pycache__|(^|/)(build|\.venv)/", name)]


def test_wheel_has_the_whole_package_and_one_native_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert shipped_sources(ROOT) <= names
    assert {"bavt_fast/py.typed", "bavt_fast/_core.pyi", "bavt_fast/tasks/countdown/data/game24.csv"} <= names
    assert len([name for name in names if re.fullmatch(r"bavt_fast/_core\.[^/]+\.(so|pyd)", name)]) == 1
    others = {name for name in names if not name.startswith("bavt_fast/") and ".dist-info/" not in name}
    assert not others, "nothing but the package may land in site-packages"
    assert any(name.endswith("LICENSE") for name in names)


def test_wheel_has_every_file_of_the_embedded_models(wheel: Path) -> None:
    models = {path for path in shipped_sources(ROOT) if path.startswith("bavt_fast/tasks/countdown/model/")}
    shipped = {
        name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("bavt_fast/tasks/countdown/model/")
    }
    assert models == shipped
    folder = "bavt_fast/tasks/countdown/model"
    assert models >= {f"{folder}/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")}
    assert models >= {f"{folder}/bavt_fast/{name}" for name in ("value_head.safetensors", "settings.json")}


def test_wheel_requires_numpy_alone(metadata: email.message.Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [re.split(r"[<>=! ]", line)[0] for line in required] == ["numpy"]
    assert set(metadata.get_all("Provides-Extra", [])) >= {"torch", "cli", "test", "bench", "all"}
    assert metadata["Requires-Python"] == ">=3.10"


def test_version_is_the_changelogs_newest(metadata: email.message.Message) -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert metadata["Version"] == newest.group(1)
    assert python("import bavt_fast; print(bavt_fast.__version__)").strip() == newest.group(1)


def test_installed_wheel_searches_without_torch(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bavt_fast as bavt\n"
        f"assert bavt.__file__.startswith({str(installed)!r}), bavt.__file__\n"
        "from importlib.metadata import version; version('bavt_fast')\n"
        "tree = bavt.Tree(seed=0)\n"
        "first = tree.expand(0, [0.2, 0.9])\n"
        "tree.backup(first + 1, 0.9)\n"
        "print(list(tree.best_path()))\n"
        "budget = bavt.Budget(tokens=10)\n"
        "result = bavt.search('q', generator=lambda text, count: ['Answer: 4'] * count, budget=budget)\n"
        "print(result.answer)\n"
    )
    assert python(code, cwd=tmp_path, PYTHONPATH=str(installed)).split("\n")[1] == "4"


def test_import_loads_no_optional_dependency() -> None:
    code = f"import sys, bavt_fast; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python(code).strip() == "[]"


def test_every_public_name_exists() -> None:
    pytest.importorskip("torch")
    code = "import bavt_fast\nfor name in bavt_fast.__all__: getattr(bavt_fast, name); assert name in dir(bavt_fast)"
    python(code)


def test_a_tree_that_is_not_built_says_so(tmp_path: Path) -> None:
    """And how to build it, instead of naming a module that nobody knows."""
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT / "bavt_fast", tmp_path / "bavt_fast", ignore=ignore)
    code = (
        "try: import bavt_fast\n"
        "except ImportError as error: print(type(error).__name__, error.name, error)\n"
        "import sys; assert 'bavt_fast' not in sys.modules\n"
    )
    # Without site-packages: an editable install lends its native module to any tree.
    said = run(sys.executable, "-S", "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert said.startswith("ImportError bavt_fast._core bavt_fast: expected a built package")
    assert f"{tmp_path / 'bavt_fast'}" in said
    assert "pip install" in said
    assert "make run" in said


def test_an_import_error_inside_the_native_module_is_not_taken_for_an_unbuilt_tree(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bavt_fast", tmp_path / "bavt_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "bavt_fast" / "_core.py").write_text("import a_module_that_is_missing\n")
    code = "try: import bavt_fast\nexcept ModuleNotFoundError as error: print(error.name)\n"
    assert python(code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).strip() == "a_module_that_is_missing"
