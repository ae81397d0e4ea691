"""`kimi-k2 bench`: runs a known benchmark program, keeps its figures in one form, draws them, compares two runs."""
