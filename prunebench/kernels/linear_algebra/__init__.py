"""Views of matrices for support searches and layer-wise methods."""
