"""The networks and how they are saved."""
