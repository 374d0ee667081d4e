"""A critic's file: what was saved is what is loaded, and nothing is loaded for what it was not trained for."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import tiny_model  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.critic_file import CriticManifest, check_out, load_critic, read_manifest, save_critic  # noqa: E402
from bavt_fast.protocols import Node, Step  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402

MANIFEST = CriticManifest(
    model="tiny", hidden_size=32, task="text", predicts="logit", figures={"auc": 0.9, "bins": [[0.1, float("nan"), 3]]}
)


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> bavt.TorchModel:
    return bavt.TorchModel(tiny_model(seed=seed).to(dtype), build_tokenizer(), threads=1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "critic.safetensors"
    save_critic(path, bavt.ResidualValuePredictor(32), MANIFEST, model())
    return path


def test_what_was_saved_is_loaded(saved: Path) -> None:
    torch.manual_seed(1)
    head = bavt.ResidualValuePredictor(32)
    critic = load_critic(saved, model(), task="text")
    states = torch.randn(3, 32)
    nodes = [Node(None, "", step=Step("a", 1, hidden=state)) for state in states]
    assert critic.score(nodes) == pytest.approx(head(states).sigmoid().flatten().tolist())
    assert critic.predicts == "value"
    found = read_manifest(saved)
    assert found == replace(MANIFEST, figures={"auc": 0.9, "bins": [[0.1, None, 3]]})
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_file_has_the_permissions_of_any_new_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_critic(tmp_path / "new", bavt.ResidualValuePredictor(32), MANIFEST, model())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_where_no_file_can_be_nothing_is_left_behind(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "critic.safetensors"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            check_out(path)
        with pytest.raises(OSError, match=re.escape(str(path))):
            save_critic(path, bavt.ResidualValuePredictor(32), MANIFEST, model())
    check_out(tmp_path / "critic.safetensors")
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.*"))


def test_a_file_that_is_no_critic_is_not_written_over(tmp_path: Path, saved: Path) -> None:
    """Such as the weights of the model, in whose folder a critic may stand."""
    others = tmp_path / "model.safetensors", tmp_path / "notes.txt"
    save_file({"weight": torch.ones(2)}, others[0], metadata={"format": "pt"})
    others[1].write_text("notes")
    for path in others:
        with pytest.raises(FileExistsError, match=f"expected a new file or that of a critic.*{re.escape(str(path))}"):
            check_out(path)
    (tmp_path / "empty").touch()
    for path in (saved, tmp_path / "empty"):
        check_out(path)


def test_a_critic_of_contexts_wants_a_generator_to_read_them(saved: Path) -> None:
    whole = model()
    generator = whole.generator(delimiter=")")
    contexts = changed(saved, reads="context")
    assert read_manifest(contexts).reads == "context"
    with pytest.raises(
        TypeError, match=r"reader: expected the generator of the search, .*critic.safetensors reads contexts"
    ):
        load_critic(contexts, whole)
    with pytest.raises(TypeError, match="reader: expected a generator with read"):
        load_critic(contexts, whole, reader=whole)  # type: ignore[arg-type]
    critic = load_critic(contexts, whole, reader=generator)
    text = "Target: 24 (left: 4 5 6 10)"
    node = Node(None, text, Node(None, "Target: 7"), Step("1", 1, hidden=torch.zeros(32)))
    expected = critic.head(whole.encode(text)).sigmoid().item()
    assert critic.score([node]) == [pytest.approx(expected, abs=1e-5)]


def test_a_file_from_before_there_was_a_choice_reads_steps(saved: Path) -> None:
    assert read_manifest(changed(saved, without=("reads",))).reads == "step"
    assert load_critic(saved, model(), reader=model().generator(delimiter=")")).reader is None


def test_the_same_model_in_half_precision_is_the_same_model(saved: Path) -> None:
    load_critic(saved, model(dtype=torch.bfloat16))


def test_another_model_is_refused_with_both_named(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"trained on the states of TorchModel\(.*, got one for 'tiny' in .*cosine"):
        load_critic(saved, model(seed=1))


def test_states_before_the_final_norm_are_refused(saved: Path) -> None:
    other = model()
    with torch.no_grad():
        other.model.model.norm.weight.copy_(torch.rand(32) * 3)
    with pytest.raises(ValueError, match="whose states are others"):
        load_critic(saved, other)


def changed(path: Path, tensors: Any = None, without: Sequence[str] = (), **fields: Any) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["bavt_fast"])
    manifest = {name: value for name, value in {**manifest, **fields}.items() if name not in without}
    save_file({**load_file(path), **(tensors or {})}, path, metadata={"bavt_fast": json.dumps(manifest)})
    return path


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"task": "countdown"}, "trained for the task 'text', got one for 'countdown'"),
        ({"layer": "12"}, "for states of layer 'last' .*, got one for layer '12' of 'tiny'"),
        ({"format": 2}, "is not a critic's file .*format 1"),
        ({"probe_text": "other"}, "is not a critic's file .*probe"),
        ({"predicts": "luck"}, "is not a critic's file .*predicts"),
        ({"reads": "mind"}, "is not a critic's file .*reads: expected step or context"),
        ({"hidden_size": True}, "is not a critic's file .*hidden_size"),
        ({"hidden_size": 64}, "is not a critic's file .*expected weights"),
        ({"hidden_size": 1 << 20}, "is not a critic's file .*expected weights"),  # nothing so large is made
        ({"extra": 1}, "is not a critic's file .*expected a manifest"),
    ],
)
def test_a_manifest_of_something_else_is_refused(saved: Path, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_critic(changed(saved, **fields), model(), task="text")


def test_what_is_not_a_critics_file_is_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for content in (b"", b"{}", whole[: len(whole) // 2], whole[:-1], b"\xff" * 100):
        saved.write_bytes(content)
        with pytest.raises(ValueError, match="is not a critic's file"):
            load_critic(saved, model())
    save_file({"predictor.0.weight": torch.zeros(2, 2)}, saved, metadata={"bavt_fast": "[" * 100_000})
    with pytest.raises(ValueError, match=r"is not a critic's file .*recursion"):
        load_critic(saved, model())
    save_file({"predictor.0.weight": torch.zeros(2, 2)}, saved)
    with pytest.raises(ValueError, match="no manifest"):
        load_critic(saved, model())
    with pytest.raises(FileNotFoundError, match="bavt-fast train critic"):
        load_critic(tmp_path / "none", model())


def test_a_probe_that_is_not_a_number_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="expected finite weights and probe, got NaN or infinity in probe"):
        load_critic(changed(saved, {"probe": torch.full((32,), float("nan"))}), model())


def test_weights_that_are_not_numbers_are_refused(saved: Path) -> None:
    weights = {"predictor.2.bias": torch.full((1,), float("nan"))}
    with pytest.raises(ValueError, match=r"expected finite weights and probe, got NaN or .*2\.bias"):
        load_critic(changed(saved, weights), model())


def test_a_head_of_other_layers_is_not_saved(tmp_path: Path) -> None:
    """What is loaded is a `ResidualValuePredictor`, with other weights missing and another activation lost."""
    bent, bare, other = (bavt.ResidualValuePredictor(32) for _ in range(3))
    bent.predictor[1] = torch.nn.GELU()
    bare.predictor[0] = torch.nn.Linear(32, 64, bias=False)
    other.predictor = torch.nn.Linear(32, 1)  # type: ignore[assignment]
    for head in (bent, bare, other):
        with pytest.raises(TypeError, match="head: expected the layers of a ResidualValuePredictor, which is"):
            save_critic(tmp_path / "critic.safetensors", head, MANIFEST, model())
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "critic.safetensors"
    bad = bavt.ResidualValuePredictor(32)
    with torch.no_grad():
        bad.predictor[2].bias.fill_(float("inf"))
    for head, manifest, match in (
        (bavt.ResidualValuePredictor(16), MANIFEST, "head: expected the model's width of 32"),
        (bavt.ResidualValuePredictor(32), replace(MANIFEST, hidden_size=16), "manifest that says 16"),
        (bavt.ResidualValuePredictor(32), replace(MANIFEST, layer="2"), "states, 'last', got '2'"),
        (bad, MANIFEST, "finite weights"),
    ):
        with pytest.raises(ValueError, match=match):
            save_critic(path, head, manifest, model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"predicts": "values"}, "predicts: expected value or residual or logit, got 'values'"),
        ({"reads": "contexts"}, "reads: expected step or context, got 'contexts'"),
        ({"task": None}, "task: expected a str, got None"),
        ({"model": Path("tiny")}, "model: expected a str, got"),
        ({"layer": 12}, "layer: expected a str, got 12"),
        ({"hidden_size": 0}, "hidden_size: expected an integer from 1"),
        ({"figures": [0.9]}, r"figures: expected a mapping of names, got \[0.9\]"),
    ],
)
def test_what_could_not_be_loaded_is_no_manifest(fields: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        replace(MANIFEST, **fields)


def test_figures_may_be_numpys_and_torchs(tmp_path: Path) -> None:
    path = tmp_path / "critic.safetensors"
    figures = {"auc": np.float32(0.5), "bins": torch.tensor([0.25, float("nan")]), "states": np.int64(3)}
    manifest = replace(MANIFEST, figures=figures, hidden_size=np.int64(32))
    save_critic(path, bavt.ResidualValuePredictor(32), manifest, model())
    assert read_manifest(path).figures == {"auc": 0.5, "bins": [0.25, None], "states": 3}
    with pytest.raises(TypeError, match="figures: expected numbers, texts, lists and mappings of them, got"):
        save_critic(path, bavt.ResidualValuePredictor(32), replace(MANIFEST, figures={"at": path}), model())


def test_what_is_no_model_head_or_manifest_is_said(saved: Path) -> None:
    head: Any = bavt.ResidualValuePredictor(32)
    for wrong in ("smollm2", None, bavt.TorchModel):
        with pytest.raises(TypeError, match="model: expected a TorchModel, or a generator over a server"):
            load_critic(saved, wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="model: expected a TorchModel, or a generator over a server"):
            save_critic(saved, head, MANIFEST, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="head: expected a ResidualValuePredictor, got"):
        save_critic(saved, len, MANIFEST, model())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="manifest: expected a CriticManifest, got"):
        save_critic(saved, head, {"model": "tiny"}, model())  # type: ignore[arg-type]
