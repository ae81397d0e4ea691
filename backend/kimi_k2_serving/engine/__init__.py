"""The engine: its port, SGLang in a supervised process of its own, a scripted fake, the CPU platform."""
