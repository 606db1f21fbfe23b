"""Playing: environments made safely, an agent for many of them at once, and what an evaluation found."""
