"""Small trees in the layouts of official datasets."""
