"""The engine model: passes requests to the engine, and the engine's chunks to Triton as responses."""
