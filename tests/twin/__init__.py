"""The twin of Kimi-K2-Instruct-0905: every count of its published config.json, with small widths and random weights."""
