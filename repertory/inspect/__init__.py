"""What the committed records say, for people."""
