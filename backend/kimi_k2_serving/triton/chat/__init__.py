"""The ensemble's two own steps: preprocess (messages to ids) and postprocess (ids to content and tool calls)."""
