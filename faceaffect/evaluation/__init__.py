"""What is done with answers: comparisons, statistics, cross-validation, pictures, reports."""
