"""The `llmos` command: every verb a person types, each a thin layer over the SDK's client."""
