"""A page on which somebody tries models: pictures, clips and a camera in, several answers out."""
