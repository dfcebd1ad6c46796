"""Policy objects to rules; evaluate, compile, explain. Pure: no loop, socket, clock or chance."""
