"""Budget-aware value tree search: the best reasoning that a language model can produce within a hard budget.

    import bavt_fast as bavt

    result = bavt.search(question, generator=g, critic=c, task=k, budget=bavt.Budget(tokens=500))

Importing this package imports neither torch nor transformers nor triton; the names that need them load them when used.
Where torch is not installed those names are absent, also from ``*`` and ``dir``; asking for one says what to install.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    from bavt_fast._core import CapacityError, Forest, SnapshotError, TicketError, Tree
except ModuleNotFoundError as error:
    if error.name != "bavt_fast._core":
        raise
    raise ImportError(
        f"bavt_fast: expected a built package, got the source tree {__path__[0]} without a native module for this "
        "Python; build it in the folder of its setup.py with `pip install -e .` (or `make run`, which sets up all else "
        "too), or start Python in another folder to import a bavt_fast that is installed",
        name="bavt_fast._core",
    ) from error
import bavt_fast._optional as _optional
from bavt_fast._version import __version__ as __version__
from bavt_fast.budget import Budget, BudgetExceeded, Ledger, Spent, iterations_needed
from bavt_fast.critics.prompted import AsyncPromptedCritic, PromptedCritic
from bavt_fast.critics.served_reward import AsyncServedRewardCritic, ServedRewardCritic
from bavt_fast.engine import Ask, Search
from bavt_fast.events import Event
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.generators.vllm_engine import VLLMGenerator
from bavt_fast.protocols import (
    Critic,
    DeadlinePassed,
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
from bavt_fast.runs import Run, RunError
from bavt_fast.searcher import Searcher, search
from bavt_fast.settings import Settings
from bavt_fast.time_limit import TimeLimit
from bavt_fast.votes import Vote, vote

if TYPE_CHECKING:
    import bavt_fast.kernels as kernels
    import bavt_fast.view as view
    from bavt_fast.critics.process_reward import ProcessRewardCritic
    from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor
    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.language_model import TorchModel, load
    from bavt_fast.recipe.heads import CriticHead
    from bavt_fast.recipe.search import DualRoleLLMAgent

__all__ = [
    "Ask",
    "AsyncPromptedCritic",
    "AsyncServedRewardCritic",
    "Budget",
    "BudgetAwareUCB",
    "BudgetAwareValueTreeSearch",
    "BudgetExceeded",
    "CapacityError",
    "Critic",
    "DeadlinePassed",
    "Description",
    "Event",
    "Forest",
    "GenerationError",
    "Ledger",
    "ManyProgress",
    "Node",
    "OpenAIGenerator",
    "Progress",
    "PromptedCritic",
    "Refusal",
    "Run",
    "RunError",
    "Sampling",
    "Scores",
    "Search",
    "SearchError",
    "SearchResult",
    "Searcher",
    "ServedRewardCritic",
    "Settings",
    "SnapshotError",
    "Spent",
    "Step",
    "StepGenerator",
    "StepRequest",
    "Task",
    "TicketError",
    "TimeLimit",
    "Tree",
    "TreeNode",
    "VLLMGenerator",
    "Vote",
    "iterations_needed",
    "kernels",
    "search",
    "view",
    "vote",
]

# The native module holds no texts: `_core.pyi` has them, for editors and the reference. ``help`` gets their beginnings.
_NATIVE = {
    Tree: "One search tree. The root is node 0; ids are dense and good for the tree's life, but for `reroot`.",
    Forest: "Many trees, worked on in waves: arrays of tree ids and of node ids in and out, one call for a whole wave.",
    CapacityError: "A tree would need more nodes than it may hold, or a forest more trees, or there is not enough "
    "memory for them.",
    SnapshotError: "Not a snapshot, a damaged one, or one of an unknown version.",
    TicketError: "A ticket that is not open, of another search, or not in the state that the call needs. Nothing was "
    "changed.",
}
for _class, _text in _NATIVE.items():
    _class.__doc__ = (
        f"{_text}\n\nMore in the file `_core.pyi` of this package, and in the reference (Trees and forests).\n"
    )
del _class, _text

_NEEDS_TORCH = {
    "CriticHead": "bavt_fast.recipe.heads",
    "DualRoleLLMAgent": "bavt_fast.recipe.search",
    "HiddenStateCritic": "bavt_fast.critics.value_head",
    "ProcessRewardCritic": "bavt_fast.critics.process_reward",
    "ResidualValuePredictor": "bavt_fast.critics.value_head",
    "TorchGenerator": "bavt_fast.generators.torch_model",
    "TorchModel": "bavt_fast.language_model",
    "load": "bavt_fast.language_model",
}

if TYPE_CHECKING or _optional.has_torch():
    __all__ += ["CriticHead", "DualRoleLLMAgent", "HiddenStateCritic", "ProcessRewardCritic", "ResidualValuePredictor"]
    __all__ += ["TorchGenerator", "TorchModel", "load"]


def __getattr__(name: str) -> Any:
    """Loads what is not always needed, and the names that need torch, when they are first used."""
    if name in ("kernels", "view"):
        return importlib.import_module(f"bavt_fast.{name}")
    value = _optional.load(__name__, name, _NEEDS_TORCH)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
