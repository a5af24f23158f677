"""One subject taught to a trained model from a handful of photographs."""
