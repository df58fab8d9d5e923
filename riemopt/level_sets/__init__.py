"""What `LevelSet` is made of: the user's equations, their normal space, and the way back."""
