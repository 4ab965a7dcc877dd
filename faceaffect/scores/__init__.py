"""What is said, and how right it is: metrics, the table of predictions, words read as labels."""
