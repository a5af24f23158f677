"""The HTML page about one delivery: what was dropped and why, where each filter's line lies, and what lies near it."""
