"""One cluster's API server as a source of what the mesh knows: objects in, mesh events out."""
