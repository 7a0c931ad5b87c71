"""Operator actions: retry or drop parked keys, and retry dead letters."""
