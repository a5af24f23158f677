"""The renderer of product photographs with known truth, and its planted dirt."""
