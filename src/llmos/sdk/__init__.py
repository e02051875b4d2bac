"""The client side of llmos: one HTTP client that the CLI, the console and `import llmos` share."""
