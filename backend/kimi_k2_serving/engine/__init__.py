"""The engine: its port, SGLang in its own supervised process, checkpoints, configuration, and the CPU platform."""
