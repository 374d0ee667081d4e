"""``python -m bavt_fast``: the command line."""

from __future__ import annotations

from bavt_fast.cli import main

main()
