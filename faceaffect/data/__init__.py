"""Datasets, protocols and the one datamodule: labelled faces in batches."""
