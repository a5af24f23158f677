"""The only modules that reach into the private parts of infra's dependencies; each has a contract test."""
