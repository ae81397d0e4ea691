"""`kimi-k2 bench`: runs a known benchmark program, stores its figures in one form, draws them, compares two runs."""
