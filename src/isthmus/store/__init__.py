"""etcd v3: client, child process, in-memory twin."""
