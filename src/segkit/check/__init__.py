"""What is wrong with a data set, and what is in it: every pair is decoded once, and told about."""
