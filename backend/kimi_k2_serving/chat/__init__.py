"""One chat request to the served model: prompt, sampling, constraint and parser, the same for every API."""
