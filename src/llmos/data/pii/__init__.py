"""Personal data in text: what finds it and what can stand in its place. No operator is here."""
