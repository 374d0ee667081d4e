"""Readable twins of the native core in plain Python: the same names, the same results to the last bit.

They are the oracles of the tests, and the place to read what the native classes do. They trade all speed for clarity
and check only what changes the outcome. `bavt_fast.reference.waves` has the loops around the engine.
"""

from __future__ import annotations

from bavt_fast.reference.account import Account
from bavt_fast.reference.engine import Engine, Question
from bavt_fast.reference.tree import CounterRng, Node, Tree, power_draw

__all__ = ["Account", "CounterRng", "Engine", "Node", "Question", "Tree", "power_draw"]
