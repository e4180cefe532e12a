"""What is fixed before the first step: the original, what is generated, sizes, orderings."""
