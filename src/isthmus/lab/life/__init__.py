"""The life of a lab as commands perform it: creating, stopping, starting, deleting, waiting until all is well."""
