"""The final norm of a saved model, alone, is the one that the whole model applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from model_families import build_model, families  # noqa: E402

from bavt_fast.generators.final_norm import load_final_norm  # noqa: E402

NAMES = [name for name in families("plain") if name in ("llama", "gemma", "gemma2", "gpt2", "gpt_neox", "qwen3")]


@pytest.mark.parametrize("name", NAMES)
def test_it_makes_the_last_hidden_state(name: str, tmp_path: Path) -> None:
    model = build_model(name)
    model.save_pretrained(tmp_path)
    norm = load_final_norm(str(tmp_path))
    same: Any = [module for module in model.base_model.modules() if type(module) is type(norm)][-1]
    read: list[Any] = []
    same.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    with torch.no_grad():
        last = model.base_model(input_ids=torch.arange(3, 20)[None]).last_hidden_state
        torch.testing.assert_close(norm(read[-1]), last)
        assert (norm(read[-1]) - read[-1]).abs().max() > 0.01


def test_a_model_in_several_files(tmp_path: Path) -> None:
    model = build_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(load_final_norm(str(tmp_path)).weight, model.model.norm.weight)


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="expected a folder, or a model that was downloaded"):
        load_final_norm("nobody/has-this-model")


def test_a_norm_without_its_weights(tmp_path: Path) -> None:
    model = build_model("llama")
    weights = {name: weight for name, weight in model.state_dict().items() if name != "model.norm.weight"}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"expected .*'weight'.* of norm in"):
        load_final_norm(str(tmp_path))
