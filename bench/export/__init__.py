"""Reading back: what an export and a status cost at a million pairs and more."""
