"""Why a connection is as it is across clusters, what would change it, and what a change would do. Pure."""
