"""What the engine's rows are called."""

OURS = "bavt_fast"
TREEQUEST = "treequest StandardMCTS, in place"
PLAIN_LOOP = "plain loop in Python"

STEP = "step"  # us outside generator and critic; at: task, questions, wave, steps (of each question)
ASYNC_STEP = "step, asearch_many"
TIMES_OURS = "per step / ours"
EMBEDDED_STEP = "step outside the embedded model"
EMBEDDED_SHARE = "share outside the embedded model"
VERIFY_CALLS = "verify calls per terminal state"
NODE_BYTES = "bytes per node"
NODE_PYTHON_BYTES = "bytes per node, Python objects"
STOPWATCH = "uncounted time of a stopwatch"  # us per call; a wave has two: generator and critic
