"""Budget-aware value tree search: the best reasoning that a language model can produce within a hard budget.

    import bavt_fast as bavt

    result = bavt.search(question, generator=g, critic=c, task=k, budget=bavt.Budget(tokens=500))

Importing this package imports neither torch nor transformers nor triton; the names that need them load them when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bavt_fast._core import CapacityError, Forest, SnapshotError, TicketError, Tree
from bavt_fast.budget import Budget, BudgetExceeded, Ledger, Spent, iterations_needed
from bavt_fast.engine import Ask, Search
from bavt_fast.protocols import (
    Critic,
    Description,
    GenerationError,
    Node,
    Sampling,
    Scores,
    Step,
    StepGenerator,
    StepRequest,
    Task,
)
from bavt_fast.recipe.search import BudgetAwareUCB, BudgetAwareValueTreeSearch, TreeNode
from bavt_fast.result import ManyProgress, Progress, Refusal, SearchError, SearchResult
from bavt_fast.searcher import Searcher, search
from bavt_fast.settings import Settings

if TYPE_CHECKING:
    from bavt_fast import kernels
    from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor
    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.recipe.heads import CriticHead
    from bavt_fast.recipe.search import DualRoleLLMAgent

__all__ = [
    "Ask",
    "Budget",
    "BudgetAwareUCB",
    "BudgetAwareValueTreeSearch",
    "BudgetExceeded",
    "CapacityError",
    "Critic",
    "CriticHead",
    "Description",
    "DualRoleLLMAgent",
    "Forest",
    "GenerationError",
    "HiddenStateCritic",
    "Ledger",
    "ManyProgress",
    "Node",
    "Progress",
    "Refusal",
    "ResidualValuePredictor",
    "Sampling",
    "Scores",
    "Search",
    "SearchError",
    "SearchResult",
    "Searcher",
    "Settings",
    "SnapshotError",
    "Spent",
    "Step",
    "StepGenerator",
    "StepRequest",
    "Task",
    "TicketError",
    "TorchGenerator",
    "Tree",
    "TreeNode",
    "iterations_needed",
    "kernels",
    "search",
]

_NEEDS_TORCH = {
    "CriticHead": "bavt_fast.recipe.heads",
    "DualRoleLLMAgent": "bavt_fast.recipe.search",
    "HiddenStateCritic": "bavt_fast.critics.value_head",
    "ResidualValuePredictor": "bavt_fast.critics.value_head",
    "TorchGenerator": "bavt_fast.generators.torch_model",
}


def __getattr__(name: str) -> Any:
    """Loads the names that need torch when they are first used."""
    if name == "kernels":
        return importlib.import_module("bavt_fast.kernels")
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "transformers", "triton", "safetensors"):
            raise ImportError(f"{name} needs {error.name}; install it with: pip install 'bavt_fast[torch]'") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_NEEDS_TORCH, "kernels"])
