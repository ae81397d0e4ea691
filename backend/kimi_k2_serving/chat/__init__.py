"""One chat request against the served model: prompt, sampling, constraint and parser, for every way to ask for it."""
