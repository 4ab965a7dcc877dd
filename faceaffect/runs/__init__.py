"""A run: from a recipe to a trained and tested model in a folder."""
