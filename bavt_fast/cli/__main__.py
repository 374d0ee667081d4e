"""``python -m bavt_fast.cli``: the command line."""

from __future__ import annotations

from bavt_fast.cli import main

if __name__ == "__main__":
    main()
