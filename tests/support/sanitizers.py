"""What the tests do not ask of an interpreter under AddressSanitizer."""

from __future__ import annotations

import os

import pytest

UNDER_ASAN = "asan" in os.environ.get("LD_PRELOAD", "")

takes_the_address_space = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer takes the address space")
keeps_freed_memory = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer keeps freed memory")
# A child has the locks as they were at the fork, and waits for a thread that it does not have.
cannot_fork = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer cannot fork beside threads")
