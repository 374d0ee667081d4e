"""What the generator's rows are called, and the sides."""

OURS = "bavt_fast"
RECIPE = "the recipe's loop"
GENERATE = "model.generate"
CONTINUOUS = "generate_batch"
SIDES = (RECIPE, GENERATE, CONTINUOUS, OURS)

# at: part, model, device, questions, asks (in flight; rows of the others), tokens (the budget of a question)
SPEED = "tokens per second"  # generated ones, over the wall time of the round
FULL_SPEED = "tokens per second of a full batch"  # from the first question that took another's place to the last one
OVER_RECIPE = "tokens per second / the recipe's"  # round by round
OVER_GENERATE = "tokens per second / model.generate's on as many rows"
FULL_OVER_GENERATE = "of a full batch / model.generate's on as many rows"
FIRST_ANSWER = "time to the first answer"  # s, from the start of the round
STEP_TOKENS = "tokens per step"
PROMPT = "prompt tokens computed per token needed once"
IDLE = "idle decode slots of a full batch"  # of 1
OUTSIDE = "share of wall time outside forward passes and sampling"  # of 1
HITS = "hits in the prefix store"
EVICTIONS = "evictions from the prefix store"
MEMORY = "peak memory"  # MB: of the device; on the CPU of the process

BUSY = "seconds beside a busy neighbour / alone"  # a process per core that never waits
SEARCH_SECONDS = "seconds of a search"  # at: neighbours
