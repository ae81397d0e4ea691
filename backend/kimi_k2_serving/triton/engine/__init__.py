"""The engine model: requests on their way into the engine, and its chunks on their way out."""
