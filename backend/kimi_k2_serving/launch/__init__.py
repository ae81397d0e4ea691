"""`scripts/serve`: install, preflight, assemble, start, watch and stop one Triton server."""
