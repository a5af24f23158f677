"""What somebody has to be told of: seven causes, watched by one sensor, told once each by webhook and e-mail."""
