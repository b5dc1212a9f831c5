"""The runner of `bdfm demo`: commands of a real run, one after the other."""
