"""One file per problem; each defines `PROBLEM`. Files that begin with `_` are shared parts."""
