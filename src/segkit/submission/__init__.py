"""What the benchmarks' servers take: label maps, their archives, and whether one is sound."""
