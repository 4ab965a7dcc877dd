"""The models: one file or folder for each system, and how one is made from its name."""
