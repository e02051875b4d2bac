"""How parts of llmos and third parties plug in: one contract, one manager."""
