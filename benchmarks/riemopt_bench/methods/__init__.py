"""One file per family of methods; each defines `METHODS`, a tuple of `Method`."""
