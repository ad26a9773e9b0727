"""Searchers that suggest configurations, and early stopping."""
