"""Rows as people have them: frames, series, mappings, labelled and masked arrays.

Everything that takes rows reads them here, by name where they have names, into double precision
with NaN where an entry is missing. A `Column` says what the numbers of one coordinate stand for, so
that they can be written back as they came: categories, booleans, whole numbers, dates.
"""
