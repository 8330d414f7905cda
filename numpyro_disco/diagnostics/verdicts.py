"""The verdicts of reports."""

GOOD, LOOK, BAD = "good", "look", "bad"
