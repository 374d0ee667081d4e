"""Run the benchmark of the critic kernel; see `benchmarks.kernel.critic`."""

import sys

from benchmarks.kernel.critic import main

sys.exit(main())
