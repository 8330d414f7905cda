"""Supports: where each coordinate lives, and the maps from the real line onto it."""
