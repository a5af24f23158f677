"""Export, engines, registry and promotion."""
