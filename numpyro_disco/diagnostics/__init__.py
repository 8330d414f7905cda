"""Diagnostics: whether draws of conditionals can be trusted."""
