"""From a JSON Schema to the rules of a grammar, and the validator of what such rules do not hold. It knows no model."""
