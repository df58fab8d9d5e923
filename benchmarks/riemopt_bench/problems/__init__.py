"""One file per problem; each defines `PROBLEMS`. Files that begin with `_` are shared parts."""
