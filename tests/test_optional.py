"""With numpy alone: what needs torch is absent, for everything that looks over a module's names, and said on access."""

from __future__ import annotations

import subprocess
import sys

import pytest

NAMES = ["CriticHead", "DualRoleLLMAgent", "HiddenStateCritic", "ProcessRewardCritic", "ResidualValuePredictor"]
NAMES += ["TorchGenerator", "TorchModel", "load"]
KERNELS = ["critic_mlp", "critic_mlp_reference", "quantize_w1", "warmup"]
BLOCK = (
    "import sys\n"
    "for name in ('torch', 'transformers', 'tokenizers', 'safetensors', 'triton'): sys.modules[name] = None\n"
    "import bavt_fast\n"
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES + [f"kernels.{name}" for name in KERNELS])
def test_names_that_need_torch_say_what_to_install(name: str) -> None:
    said = run(f"{BLOCK}try: bavt_fast.{name}\nexcept AttributeError as error: print(error.name, error)")
    assert said.strip() == (
        f"{name.rpartition('.')[2]} bavt_fast.{name} needs torch; install it with: pip install 'bavt_fast[torch]'"
    )


@pytest.mark.parametrize("module", ["model_folder", "critics.critic_file", "training.critic"])
def test_modules_that_need_torch_say_what_to_install(module: str) -> None:
    """Those that the documentation imports by their names."""
    code = f"{BLOCK}try: import bavt_fast.{module}\nexcept ModuleNotFoundError as error: print(error.name, error)"
    assert run(code).strip() == (
        f"torch bavt_fast.{module} needs torch; install it with: pip install 'bavt_fast[torch]'"
    )


@pytest.mark.parametrize(
    ("call", "package"),
    [("png(result, 'a.png')", "matplotlib"), ("to_networkx(result)", "networkx"), ("to_dataframe(result)", "pandas")],
)
def test_views_that_need_a_package_say_what_to_install(call: str, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import bavt_fast as bavt\n"
        "result = bavt.search('q', generator=lambda text, count: ['a'], budget=bavt.Budget(tokens=1))\n"
        f"try: bavt.view.{call}\nexcept ModuleNotFoundError as error: print(error)"
    )
    user = call.partition("(")[0]
    assert run(code).strip() == f"{user} needs {package}; install it with: pip install 'bavt_fast[view]'"


def test_they_are_absent_without_torch() -> None:
    """In ``*``, ``dir``, ``hasattr``, inspect, pydoc and autospec; everything else is there."""
    code = f"""{BLOCK}
import inspect, pydoc, unittest.mock
names, kernels = {NAMES!r}, {KERNELS!r}
space = {{}}
exec("from bavt_fast import *", space)
exec("from bavt_fast.kernels import *", space)
assert set(bavt_fast.__all__) <= set(space)
members = dict(inspect.getmembers(bavt_fast))
for name in names:
    assert name not in space and name not in bavt_fast.__all__ and name not in dir(bavt_fast) and name not in members
    assert not hasattr(bavt_fast, name) and getattr(bavt_fast, name, 3) == 3
for name in kernels:
    assert name not in space and not hasattr(bavt_fast.kernels, name)
    assert name not in dict(inspect.getmembers(bavt_fast.kernels))
for module in (bavt_fast, bavt_fast.kernels):
    for text in (pydoc.render_doc(module), pydoc.HTMLDoc().docmodule(module)):
        assert "TorchGenerator" not in text
double = unittest.mock.create_autospec(bavt_fast)
assert hasattr(double, "Searcher") and not hasattr(double, "TorchGenerator")
assert {{"Searcher", "Tree", "search", "kernels", "BudgetAwareUCB"}} <= set(space) & set(dir(bavt_fast))
try: bavt_fast.no_such_name
except AttributeError as error: assert str(error) == "module 'bavt_fast' has no attribute 'no_such_name'"
print("looked")
"""
    assert run(code).strip() == "looked"


def test_they_are_there_with_torch() -> None:
    """And none of the looking loads torch: only the name itself does."""
    pytest.importorskip("torch")
    code = f"""
import sys, bavt_fast
assert set({NAMES!r}) <= set(bavt_fast.__all__) & set(dir(bavt_fast))
assert set({KERNELS!r}) <= set(bavt_fast.kernels.__all__) & set(dir(bavt_fast.kernels))
assert "torch" not in sys.modules
for name in bavt_fast.__all__: getattr(bavt_fast, name)
assert "torch" in sys.modules and "TorchGenerator" in vars(bavt_fast)
"""
    run(code)


def test_a_fault_of_ours_is_not_taken_for_a_missing_package() -> None:
    pytest.importorskip("torch")
    code = (
        "import sys, bavt_fast; sys.modules['bavt_fast.generators.torch_model'] = None\n"
        "try: bavt_fast.TorchGenerator\nexcept ModuleNotFoundError as error: print(error.name)"
    )
    assert run(code).strip() == "bavt_fast.generators.torch_model"
    code = code.replace("bavt_fast.TorchGenerator", "import bavt_fast.model_folder")
    assert run(code).strip() == "bavt_fast.generators.torch_model"
