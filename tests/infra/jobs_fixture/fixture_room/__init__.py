"""A tiny room whose jobs the launcher tests run; found through PYTHONPATH."""
