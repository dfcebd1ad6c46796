"""What the controllers read of API objects: frozen, narrow, with a few questions that every controller asks of them."""
