"""Command-line programs and their parsers."""
