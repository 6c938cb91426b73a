"""How a release is written: planned, desensitized, encoded, renamed; gone on with after a kill."""
