"""A trained recogniser as a library takes it: load it, give it images, get unit vectors."""
