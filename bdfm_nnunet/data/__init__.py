"""Data: made-up cohorts on a real template, and reproducible batches of preprocessed cases."""
