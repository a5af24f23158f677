"""The parts of the captioner: settings, the chat messages, the pace, and one exchange with the endpoint."""
