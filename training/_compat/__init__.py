"""Private or slow corners of dependencies, each in one module with a contract test."""
