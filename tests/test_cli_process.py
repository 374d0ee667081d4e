"""How the command line's process starts and ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **env})


@pytest.mark.parametrize(("env", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_wait_passively_unless_the_user_wants_otherwise(env: dict[str, str], policy: str) -> None:
    code = (
        "import os, sys\n"
        "from bavt_fast.cli import process\n"
        "assert 'torch' not in sys.modules\n"
        "process.begin(); print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert run(code, **env).stdout == f"{policy}\n"


def test_torch_is_told_in_time() -> None:
    """The policy is set before the command imports torch, whose threads read it once."""
    code = (
        "import os, sys\n"
        "from bavt_fast import cli\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print(os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "sys.argv = ['bavt-fast', 'solve', '2', '3', '--target', '6', '--quiet']\n"
        "cli.main()"
    )
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    done = run(code)
    assert (done.returncode, done.stdout.split("\n", 1), done.stderr) == (0, ["passive", "3 * 2\n"], "")


def test_garbage_is_collected_again_after_loading() -> None:
    code = (
        "import gc\n"
        "from bavt_fast.cli import process\n"
        "with process.loading(): assert gc.isenabled()\n"
        "before = gc.get_freeze_count()\n"
        "assert before < 1000\n"  # Python 3.12 begins with some
        "process.begin()\n"
        "try:\n"
        "    with process.loading():\n"
        "        assert not gc.isenabled(); 1 / 0\n"
        "except ZeroDivisionError: print(gc.isenabled(), gc.get_freeze_count() > before + 1000)"
    )
    assert run(code).stdout == "True True\n"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_end_writes_what_was_printed_and_runs_what_was_registered(code: int) -> None:
    source = (
        "import atexit, sys\n"
        "from bavt_fast.cli import process\n"
        "atexit.register(print, 'registered')\n"
        "print('printed'); print('error', file=sys.stderr)\n"
        f"process.end({code})"
    )
    done = run(source)
    assert (done.returncode, done.stdout, done.stderr) == (code, "printed\nregistered\n", "error\n")


def test_the_end_without_streams() -> None:
    assert (
        run("import sys; from bavt_fast.cli import process; sys.stdout = sys.stderr = None; process.end(3)").returncode
        == 3
    )


def test_models_are_found_though_their_package_was_not_read() -> None:
    pytest.importorskip("transformers")
    code = (
        "import sys\n"
        "from bavt_fast.cli import process\n"
        "process.begin()\n"
        "with process.loading():\n"
        "    import transformers\n"
        "    from transformers.models import GPT2Config\n"
        "    from transformers.models.llama.modeling_llama import LlamaForCausalLM\n"
        "assert transformers.models.gpt2.GPT2Config is GPT2Config is transformers.GPT2Config\n"
        "assert transformers.models.llama.LlamaForCausalLM is LlamaForCausalLM is transformers.LlamaForCausalLM\n"
        "assert transformers.AutoConfig.for_model('gpt2').__class__ is GPT2Config\n"
        "assert not hasattr(transformers.models, 'no_such_model')\n"
        "print('found')"
    )
    done = run(code)
    assert (done.stdout, done.stderr) == ("found\n", "")


def test_loading_without_torch_is_the_commands_affair() -> None:
    code = (
        "import sys\n"
        "from bavt_fast.cli import process\n"
        "sys.modules['torch'] = None\n"
        "process.begin()\n"
        "with process.loading(): print('loads')"
    )
    assert run(code).stdout == "loads\n"
