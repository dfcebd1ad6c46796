"""The state of all clusters as one value: from their API servers, or from manifests."""
