"""Data of a run: read it, check it, hold some of it out, turn it into tokens once."""
