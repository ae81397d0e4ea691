"""The engine model: requests into the engine, and the engine's chunks out as responses."""
