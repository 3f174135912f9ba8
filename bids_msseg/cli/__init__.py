"""The command lines: parsers, and the programs that they start."""
