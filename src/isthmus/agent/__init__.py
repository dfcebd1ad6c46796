"""The node agent: watches policies and the mesh, keeps the kernel as they say."""
