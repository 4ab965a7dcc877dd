"""The models: one file for each system."""
