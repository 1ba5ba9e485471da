"""What an evaluation counts, and the numbers that are read off the counts."""
