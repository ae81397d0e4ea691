"""The ensemble's two steps: messages to ids, and ids to content and tool calls."""
