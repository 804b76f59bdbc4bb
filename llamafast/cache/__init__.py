"""What is already computed and can be used again."""
