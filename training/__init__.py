"""Models, flow-matching maths, data loading and recipes: what a training job runs."""
