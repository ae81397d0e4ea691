"""Reads large requests in processes of their own, which send back what they have read."""
