"""The one self-contained HTML page a run ends with."""
