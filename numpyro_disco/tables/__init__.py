"""Rows of data as people have them: tables, and draws of variables with shapes."""
