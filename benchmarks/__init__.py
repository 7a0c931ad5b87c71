"""Measurements. They report, and never assert on time."""
