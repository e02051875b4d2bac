"""The native API, one module a noun. Every route names the action it needs (``access.allow``)."""
