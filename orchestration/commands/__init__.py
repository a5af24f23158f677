"""The commands of `backdrop`: what they take, their help and their examples. The work is done elsewhere."""
