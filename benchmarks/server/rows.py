"""What the server benchmark's rows are called."""

SEARCH = "search"
CLIENT = "generator alone"
BARE = "bare client"

STEP = "step over a server that answers at once"  # us of processor time; at: in_flight
ADDED = "added to a bare call"  # us per step, round by round
