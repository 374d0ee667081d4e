"""What the engine's rows are called."""

OURS = "bavt_fast"
TREEQUEST = "treequest StandardMCTS, in place"
PLAIN_LOOP = "plain loop in Python"

STEP = "step"  # us outside generator and critic; at: task, questions, wave, steps (of each question)
ASYNC_STEP = "step, asearch_many"
TIMES_OURS = "per step / ours"
LISTENED = "step with a listener / without"
HOOKS = "asking whether anybody listens"  # us a step that nobody listens to; the whole of what `on_event` adds to it
EMBEDDED_STEP = "step outside the embedded model"
EMBEDDED_REPLAYED = "the same answers without the model"  # us a step; with caches that no forward pass has emptied
EMBEDDED_QUESTION = "steps of a question, embedded model"  # beginning and ending it is shared by so many
EMBEDDED_TOLD = "steps told at once, embedded model"  # and a turn of the loop by so many
EMBEDDED_SHARE = "share outside the embedded model"
VERIFY_CALLS = "verify calls per terminal state"
NODE_BYTES = "bytes per node"
NODE_PYTHON_BYTES = "bytes per node, Python objects"
STOPWATCH = "uncounted time of a stopwatch"  # us per call; a wave has two: generator and critic
