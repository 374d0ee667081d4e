"""``bavt-fast`` and ``python -m bavt_fast``: the command line, or what it lacks."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Entry point of ``bavt-fast``."""
    try:
        from bavt_fast.cli import main as run
    except ModuleNotFoundError as error:
        if not str(error).startswith("the command line needs"):
            raise
        print(f"bavt-fast: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
