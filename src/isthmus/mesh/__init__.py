"""Clusters in, mesh state out: sources, importer, identities, publisher, reader."""
