"""Everything that is kept: named, numbered, immutable versions with lineage. Torch-free."""
