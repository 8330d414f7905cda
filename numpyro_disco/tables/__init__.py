"""Rows as people have them: frames, series, mappings, arrays, and draws of variables with shapes.

Everything that takes rows reads them here, by name where they have names, into double precision
with NaN where an entry is missing. A `Column` says what the numbers of one coordinate stand for, so
that they can be written back as they came: categories, booleans, whole numbers, dates. `Variables`
says how coordinates form the arrays of named variables, as the sites of a model are.
"""
