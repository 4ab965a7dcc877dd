"""What is done with answers: pooled predictions, cost, statistics, pictures, reports."""
