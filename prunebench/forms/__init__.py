"""The block in another ecosystem's words, and the way back."""
