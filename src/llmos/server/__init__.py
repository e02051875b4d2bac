"""The HTTP face of llmos: the OpenAI-compatible /v1, the native /api/v1, and plain pages."""
