"""Jobs: what runs in a process of its own, how it is described, launched and heard."""
