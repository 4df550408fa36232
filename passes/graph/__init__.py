"""Passes on the graph dialect: canonicalise, fold into weights, cast, partition, narrow, fuse, lay out, tile."""
