"""What an operator can do about parked keys and dead letters."""
