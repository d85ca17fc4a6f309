"""One edit as a file that people ship: made, described, checked, compared, exported, undone."""
