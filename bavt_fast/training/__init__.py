"""Training of the embedded model and its critic on Countdown and the Game of 24."""
